/// Channel Merging of whole checkpoints on a GPU, from end to end, against the time in which the same bytes are copied to the
/// device and back from page-locked memory. Put the checkpoints into a tmpfs, so that no disk is measured:
///
///   make_synthetic /dev/shm/llama 4 5
///   cuda_stream /dev/shm/llama [DEVICE,DEVICE...] [RUNS]
///
/// Prints seconds, medians of RUNS (5), and their ratio to the copies'.

#include <braid/cuda.cuh>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

using clock_type = std::chrono::steady_clock;
double since(clock_type::time_point start) { return std::chrono::duration<double>(clock_type::now() - start).count(); }

template <class F>
double median(int runs, F const& f) {
  std::vector<double> seconds;
  for (int r = 0; r < runs; ++r) { seconds.push_back(f()); }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<std::size_t>(runs / 2)];
}

/// Seconds to copy `up` bytes to the devices and `down` bytes back, both at once where the bus allows, in pieces of 16 MiB.
double copies(std::vector<int> const& devices, std::uint64_t up, std::uint64_t down) {
  constexpr std::size_t piece = std::size_t{16} << 20;
  struct way {
    braid::cuda to;
    braid::cuda from;
    braid::detail::pinned_bytes here;
    braid::detail::pinned_bytes back;
    braid::device_buffer<std::byte> there;
    explicit way(int device) : to(device), from(device) {
      here.fit(piece);
      back.fit(piece);
      there = to.make_buffer<std::byte>(2 * piece);
      std::memset(here.data(), 1, piece);
      std::memset(back.data(), 1, piece);
      to.synchronize();
    }
  };
  std::vector<way> ways;
  ways.reserve(devices.size());
  for (int const d : devices) { ways.emplace_back(d); }
  auto const start = clock_type::now();
  std::size_t turn = 0;
  for (std::uint64_t at = 0; at < up; at += piece) {
    way& w = ways[turn++ % ways.size()];
    w.to.to_device(w.there.data(), static_cast<std::byte const*>(w.here.data()), static_cast<std::size_t>(std::min<std::uint64_t>(piece, up - at)));
  }
  for (std::uint64_t at = 0; at < down; at += piece) {
    way& w = ways[turn++ % ways.size()];
    w.from.to_host(w.back.data(), static_cast<std::byte const*>(w.there.data() + piece), static_cast<std::size_t>(std::min<std::uint64_t>(piece, down - at)));
  }
  for (way& w : ways) {
    w.to.synchronize();
    w.from.synchronize();
  }
  return since(start);
}

void measure(std::filesystem::path const& root, std::vector<int> const& devices, int runs) {
  braid::checkpoint const base(root / "base");
  std::vector<braid::checkpoint> experts;
  for (int e = 0; std::filesystem::exists(root / ("expert" + std::to_string(e))); ++e) {
    experts.emplace_back(root / ("expert" + std::to_string(e)));
  }
  std::filesystem::path const out = root / "merged";
  braid::run_options options;
  options.overwrite = true;
  options.device.devices = devices;
  braid::report last;
  auto const time = [&]<class Method>(Method const& method, bool hash) {
    options.hash_inputs = hash;
    return median(runs, [&] {
      auto const start = clock_type::now();
      last = braid::run(method, base, experts, out, options);
      return since(start);
    });
  };
  using device_merge = braid::channel_merge<braid::cuda, braid::prune::none, braid::similarity::cosine, braid::cluster::exact, braid::consensus::mean>;
  double const hashed = time(device_merge(), true);
  double const plain = time(device_merge(), false);
  double const host = time(device_merge().with<braid::cpu>(), false);
  double const copy = median(runs, [&] { return copies(devices, last.bytes_read, last.stored_bytes); });
  double const both = median(runs, [&] { return copies(devices, last.bytes_read, 0) + copies(devices, 0, last.stored_bytes); });
  std::filesystem::remove_all(out);
  auto const gigabytes = static_cast<double>(last.bytes_read) * 1e-9;
  std::printf("%zu experts, %.2f GB read, %.2f GB written, %zu device(s)\n", experts.size(), gigabytes, static_cast<double>(last.stored_bytes) * 1e-9,
              devices.size());
  auto const line = [&](char const* what, double seconds) {
    std::printf("%-34s %7.3f s  %6.2f GB/s read  %5.2f of the copies, %5.2f of up then down\n", what, seconds, gigabytes / seconds, seconds / copy,
                seconds / both);
  };
  line("copies, both ways at once", copy);
  line("copies, up, then down", both);
  line("merge on the device", plain);
  line("merge on the device, inputs hashed", hashed);
  line("merge on the host's threads", host);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<int> devices;
    for (char const* p = argc > 2 ? argv[2] : "0"; *p != '\0'; p += *p == ',' ? 1 : 0) {
      char* end = nullptr;
      devices.push_back(static_cast<int>(std::strtol(p, &end, 10)));
      if (end == p) { throw braid::argument_error("devices are numbers with commas between"); }
      p = end;
    }
    if (argc < 2) { throw braid::argument_error("usage: cuda_stream ROOT [DEVICE,DEVICE...] [RUNS]"); }
    measure(argv[1], devices, argc > 3 ? std::max(1, std::atoi(argv[3])) : 5);
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "cuda_stream: %s\n", e.what());
    return 1;
  }
}
