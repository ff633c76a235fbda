#include "interruption.hpp"

#include <braid/core/error.hpp>

#include <csignal>

namespace program {
namespace {

constexpr int signals[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t raised = 0;

extern "C" void note_signal(int) { raised = 1; }

}  // namespace

interruption::interruption() {
  for (int const s : signals) {
    struct sigaction before {};
    // Whoever started the program with a signal ignored (nohup) wants it ignored.
    if (::sigaction(s, nullptr, &before) != 0 || before.sa_handler == SIG_IGN) { continue; }
    struct sigaction now {};
    now.sa_handler = note_signal;
    now.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
    ::sigaction(s, &now, nullptr);
  }
}

interruption::~interruption() {
  for (int const s : signals) {
    struct sigaction now {};
    if (::sigaction(s, nullptr, &now) == 0 && now.sa_handler == note_signal) { std::signal(s, SIG_DFL); }
  }
}

void interruption::check() {
  if (raised != 0) { throw braid::error("interrupted; what was written so far is removed"); }
}

}  // namespace program
