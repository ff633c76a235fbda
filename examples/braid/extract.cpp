#include "arguments.hpp"
#include "command_line.hpp"
#include "text.hpp"

#include <braid/io/grouped_checkpoint.hpp>

#include <chrono>
#include <iostream>

namespace program {

int extract(extract_arguments const& args) {
  auto const start = std::chrono::steady_clock::now();
  braid::extract_options options;
  options.max_shard_bytes = parse_shard_size("--max-shard-size", args.max_shard_size);
  options.overwrite = args.overwrite;
  braid::grouped_checkpoint const grouped(args.grouped);
  grouped.extract(args.expert, args.out, options);

  braid::checkpoint const written(args.out);
  std::uint64_t bytes = 0;
  for (auto const& t : written.tensors()) { bytes += t.bytes; }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << args.expert << " in " << printable(args.out) << ": " << written.tensors().size() << " tensors, "
            << size_text(bytes) << " in " << time_text(seconds) << '\n';
  return success;
}

}  // namespace program
