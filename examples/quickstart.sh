#!/usr/bin/env bash
set -euo pipefail

if [ $# -gt 0 ]; then
  case $1 in -h | --help) status=0 ;; *) status=2 ;; esac
  cat <<'END'
Usage: bash examples/quickstart.sh

From a fresh clone to a merged model, on Debian 12 or Ubuntu 24.04, as root or with sudo:
  1. installs the packages that are missing, and says which
  2. builds braid's programs in build/default/bin
  3. merges the four experts in examples/zoo in several ways, runs the experts of each merged checkpoint on
     their prompts, and prints a table of accuracies and sizes
Needs no GPU, and no network where the packages are installed.
END
  exit "$status"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/install-dependencies.sh

echo "== Packages"
install_dependencies programs
echo "== Build (build/default)"
cmake --preset default
cmake --build --preset default --parallel "$(nproc)"
echo "== Merge examples/zoo"
build/default/bin/expert_zoo examples/zoo
