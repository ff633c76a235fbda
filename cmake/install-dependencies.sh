# shellcheck shell=bash
# Sourced by tests/run.sh, examples/quickstart.sh and .ci/run:
#
#   install_dependencies GROUP...     GROUP: programs, tests or compilers
#
# Installs what is missing with apt-get (Debian 12, Ubuntu 24.04, and their relatives). Where everything is installed,
# apt-get is not called and the network is not used. On other systems it says so and leaves the rest to CMake.

# group|package|command that proves it (empty: ask dpkg)|what it is for
braid_dependencies='programs|g++|c++|the compiler
programs|cmake|cmake|configures the build
programs|ninja-build|ninja|runs the build
programs|libtbb-dev||threads (oneTBB)
programs|nlohmann-json3-dev||JSON in checkpoints
programs|libxxhash-dev||hashes of inputs
programs|libeigen3-dev||the forward pass of the examples
programs|libcli11-dev||command line of the program braid
programs|libyaml-cpp-dev||recipes
tests|catch2||test framework
tests|libbenchmark-dev||benchmarks, which the tests build too
compilers|g++-12|g++-12|compiles every header alone
compilers|clang-14|clang++-14|compiles every header alone'

install_dependencies() {
  local group package command purpose
  local -a missing=() as_root=()

  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "No apt-get here: nothing is installed by this script. CMake looks for what braid needs, and fetches the rest."
    return 0
  fi
  while IFS='|' read -r group package command purpose; do
    case " $* " in *" $group "*) ;; *) continue ;; esac
    if [ -n "$command" ] && command -v "$command" >/dev/null; then continue; fi
    if dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then continue; fi
    missing+=("$package")
    echo "Missing: $package ($purpose)"
  done <<<"$braid_dependencies"
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi

  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "Neither root nor sudo: ask somebody who is to run 'apt-get install ${missing[*]}'" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -q -o DPkg::Lock::Timeout=300)
  echo "Installing with apt-get: ${missing[*]}"
  "${as_root[@]}" update </dev/null || echo "apt-get update reports a problem; going on with the lists that there are" >&2
  "${as_root[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null
}
