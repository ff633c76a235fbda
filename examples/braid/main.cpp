/// braid: the library on a command line. docs/cli.md describes it.
///
///   command_line.cpp   every option of every command, and their help
///   channel_merge.cpp  braid channel-merge; method.cpp and inputs.cpp understand its options, pipelines_*.cpp hold the
///                      pipelines that are known at compile time
///   extract.cpp        braid extract
///   inspect.cpp        braid inspect
///   diff.cpp           braid diff
///   route.cpp          braid route train, eval, predict; route_options.cpp has its options, queries.cpp reads queries

#include "command_line.hpp"

#include <csignal>
#include <exception>
#include <iostream>
#include <new>
#include <string>

namespace {

/// One line, whatever an exception says.
void complain(std::string what) {
  for (char& c : what) {
    if (c == '\n' || c == '\r') { c = ' '; }
  }
  std::cerr << "braid: " << what << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  // A file that grows beyond its limit (ulimit -f) is an error to report, not a reason to die and leave half of it.
  std::signal(SIGXFSZ, SIG_IGN);
  int failed = program::failure;
  try {
    int const status = program::run_command_line(argc, argv, failed);
    std::cout.flush();
    if (!std::cout) {
      complain("standard output can't be written; is the disk full?");
      return failed;
    }
    return status;
  } catch (std::bad_alloc const&) {
    complain("out of memory; use fewer --threads, or a machine with more memory");
  } catch (std::exception const& e) {
    complain(e.what());
  } catch (...) {
    complain("an unknown error; please report it with the command line that led to it");
  }
  return failed;
}
