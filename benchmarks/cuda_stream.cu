/// Channel Merging of whole checkpoints on a GPU, from end to end, against the time in which the same bytes are copied to the
/// device and back from page-locked memory. Put the checkpoints into a tmpfs, so that no disk is measured; one with large pages
/// makes room for files several times as fast:
///
///   mount -t tmpfs -o huge=always,size=60G tmpfs /mnt/models
///   make_synthetic /mnt/models/llama 4 3 4096 14336
///   cuda_stream /mnt/models/llama [DEVICE,DEVICE...] [RUNS] [MEGABYTES]
///
/// MEGABYTES are the memory for blocks on each device (1024). Prints seconds, medians of RUNS (5), and their ratio to the copies';
/// then what the host does, each step alone.

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

/// Seconds in which the host's threads copy every tensor from its file to page-locked memory, `piece` bytes at a time.
double read_all(braid::cpu const& host, std::vector<braid::checkpoint const*> const& models, std::size_t piece) {
  struct part {
    braid::checkpoint const* model;
    braid::tensor_meta const* tensor;
    std::uint64_t at;
  };
  std::vector<part> parts;
  for (auto const* m : models) {
    for (auto const& t : m->tensors()) {
      for (std::uint64_t at = 0; at < t.bytes; at += piece) { parts.push_back({m, &t, at}); }
    }
  }
  tbb::enumerable_thread_specific<braid::detail::pinned_bytes> rooms;
  host.for_each(host.threads(), [&](braid::index_t) { rooms.local().fit(piece); });
  auto const start = clock_type::now();
  host.for_each(static_cast<braid::index_t>(parts.size()), [&](braid::index_t i) {
    part const& p = parts[static_cast<std::size_t>(i)];
    auto const n = static_cast<std::size_t>(std::min<std::uint64_t>(piece, p.tensor->bytes - p.at));
    auto& room = rooms.local();
    room.fit(piece);
    std::memcpy(room.data(), p.model->bytes(*p.tensor).data() + p.at, n);
    p.model->release(*p.tensor, p.at, n);
  });
  return since(start);
}

/// Seconds in which they write that many bytes to one file of a checkpoint.
double write_all(braid::cpu const& host, std::filesystem::path const& out, std::uint64_t bytes) {
  constexpr std::size_t piece = std::size_t{1} << 20;
  auto const pieces = static_cast<braid::index_t>(bytes / piece);
  braid::checkpoint_writer writer(out, {{.name = "x", .type = braid::dtype::u8, .shape = {pieces * static_cast<braid::index_t>(piece)}}}, 0,
                                  {.max_shard_bytes = ~std::uint64_t{0}});
  std::vector<std::byte> const from(piece, std::byte{1});
  auto const start = clock_type::now();
  std::size_t const slot = writer.begin("x");
  host.for_each(pieces, [&](braid::index_t i) { writer.write(slot, static_cast<std::uint64_t>(i) * piece, from); });
  return since(start);
}

/// Seconds to lock the pages of that many rooms of `bytes`, by all threads.
double lock_pages(braid::cpu const& host, int rooms, std::size_t bytes) {
  std::vector<std::unique_ptr<braid::detail::locked_memory>> all(static_cast<std::size_t>(rooms));
  auto const start = clock_type::now();
  host.for_each(rooms, [&](braid::index_t i) { all[static_cast<std::size_t>(i)] = std::make_unique<braid::detail::locked_memory>(bytes); });
  return since(start);
}

/// Where the time of a merge went.
void print(braid::stream_timeline const& t, double all) {
  using line = braid::stream_timeline;
  std::printf("  since the start:");
  for (std::size_t m = 0; m < line::milestones; ++m) { std::printf(" %s %.3f,", line::milestone_names[m], t.at(static_cast<line::milestone>(m))); }
  std::printf(" memory given back %.3f\n", all);
  for (std::size_t s = 0; s < line::steps; ++s) {
    auto const x = t.of(static_cast<line::step>(s));
    std::printf("  %-8s from %.3f to %.3f, %6.3f s of all threads in %lld times\n", line::step_names[s], x.first, x.last, x.sum,
                static_cast<long long>(x.count));
  }
}

void measure(std::filesystem::path const& root, std::vector<int> const& devices, int runs, std::uint64_t memory) {
  braid::checkpoint const base(root / "base");
  std::vector<braid::checkpoint> experts;
  for (int e = 0; std::filesystem::exists(root / ("expert" + std::to_string(e))); ++e) {
    experts.emplace_back(root / ("expert" + std::to_string(e)));
  }
  std::filesystem::path const out = root / "merged";
  braid::run_options options;
  options.max_shard_bytes = ~std::uint64_t{0};
  options.device.devices = devices;
  options.device.memory = memory;
  braid::report last;
  auto const time = [&]<class Method>(Method const& method, bool hash) {
    options.hash_inputs = hash;
    return median(runs, [&] {
      std::filesystem::remove_all(out);  // takes time too, and is no part of it
      auto const start = clock_type::now();
      last = braid::run(method, base, experts, out, options);
      return since(start);
    });
  };
  using device_merge = braid::channel_merge<braid::cuda, braid::prune::none, braid::similarity::cosine, braid::cluster::exact, braid::consensus::mean>;
  double const hashed = time(device_merge(), true);
  double const plain = time(device_merge(), false);
  // And once more, for its times.
  braid::stream_timeline of_plain;
  options.device.timeline = &of_plain;
  options.hash_inputs = false;
  std::filesystem::remove_all(out);
  auto const once = clock_type::now();
  of_plain.restart();
  (void)braid::run(device_merge(), base, experts, out, options);
  double const seconds_of_plain = since(once);
  options.device.timeline = nullptr;
  double const balanced = time(braid::channel_merge<braid::cuda, braid::prune::none, braid::similarity::balanced, braid::cluster::exact, braid::consensus::mean>(), false);
  double const host = time(device_merge().with<braid::cpu>(), false);
  double const copy = median(runs, [&] { return copies(devices, last.bytes_read, last.stored_bytes); });
  double const both = median(runs, [&] { return copies(devices, last.bytes_read, 0) + copies(devices, 0, last.stored_bytes); });
  std::filesystem::remove_all(out);
  braid::cpu const threads;
  std::vector<braid::checkpoint const*> models{&base};
  for (auto const& e : experts) { models.push_back(&e); }
  double const reading = median(runs, [&] { return read_all(threads, models, std::size_t{1} << 20); });
  double const writing = median(runs, [&] { return write_all(threads, out, last.stored_bytes); });
  double const locking = median(runs, [&] { return lock_pages(threads, threads.threads(), std::size_t{8} << 20); });
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
  print(of_plain, seconds_of_plain);
  line("merge on the device, inputs hashed", hashed);
  line("merge on the device, measured before", balanced);
  line("merge on the host's threads", host);
  line("reading to page-locked memory", reading);
  line("writing one file", writing);
  line("locking 8 MiB a thread", locking);
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
    if (argc < 2) { throw braid::argument_error("usage: cuda_stream ROOT [DEVICE,DEVICE...] [RUNS] [MEGABYTES]"); }
    measure(argv[1], devices, argc > 3 ? std::max(1, std::atoi(argv[3])) : 5,
            argc > 4 ? static_cast<std::uint64_t>(std::max(1, std::atoi(argv[4]))) << 20 : 0);
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "cuda_stream: %s\n", e.what());
    return 1;
  }
}
