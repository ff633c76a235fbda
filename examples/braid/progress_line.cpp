#include "progress_line.hpp"

#include "text.hpp"

#include <cmath>
#include <iostream>

#include <unistd.h>

namespace program {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::string rate_text(std::uint64_t bytes, double duration) {
  return size_text(duration > 0.0 ? static_cast<std::uint64_t>(static_cast<double>(bytes) / duration) : 0) + "/s";
}

std::string text_of(braid::progress const& p) {
  double const share = p.bytes == 0 ? 0.0 : static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes);
  std::string s = std::to_string(p.tensors_done) + "/" + std::to_string(p.tensors) + " tensors, " +
                  fixed(100.0 * share, 0) + " %, " + rate_text(p.bytes_done, p.seconds) + ", ";
  // All that is left then is the operating system's: what was written must reach the disk.
  if (p.tensors_done + 1 == p.tensors && share > 0.9999) { return s + "finishing"; }
  if (share <= 0.0) { return s + "? left"; }
  double const left = std::ceil(p.seconds * (1.0 - share) / share);
  return s + (left < 60.0 ? fixed(left, 0) + " s" : time_text(left)) + " left";
}

}  // namespace

progress_line::progress_line(std::vector<std::string> notes)
    : notes_(std::move(notes)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      next_(clock::now() + (terminal_ ? milliseconds(100) : seconds(10))) {}

progress_line::~progress_line() { clear(); }

void progress_line::show(braid::progress const& p) {
  show_notes();
  auto const now = clock::now();
  if (now < next_) { return; }
  next_ = now + (terminal_ ? milliseconds(200) : seconds(10));
  if (terminal_) {
    std::cerr << '\r' << text_of(p) << "\033[K" << std::flush;
    shown_ = true;
  } else {
    std::cerr << "braid: " << text_of(p) << std::endl;
  }
}

void progress_line::finish(braid::report const& r) {
  show_notes();
  clear();
  if (terminal_) { return; }
  std::string const count = std::to_string(r.tensors.size());
  std::cerr << "braid: " << count << '/' << count << " tensors, 100 %, " << rate_text(r.bytes_read, r.seconds) << ", "
            << time_text(r.seconds) << std::endl;
}

void progress_line::show_notes() {
  for (auto const& note : notes_) { std::cerr << "braid: note: " << note << std::endl; }
  notes_.clear();
}

void progress_line::clear() {
  if (shown_) { std::cerr << "\r\033[K" << std::flush; }
  shown_ = false;
}

}  // namespace program
