#!/usr/bin/env bash
set -euo pipefail

preset=dev
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      cat <<'END'
Usage: bash tests/run.sh [--asan] [CTEST-ARGUMENT...]

Installs the packages that are missing and says which (Debian 12 or Ubuntu 24.04, as root or with sudo), builds
everything with warnings as errors, and runs every test. Needs no GPU, and no network where the packages are installed.

  --asan              the same under the address and undefined behaviour sanitizers (build/asan instead of build/dev)
  CTEST-ARGUMENT...   for ctest, such as -R 'similarity' for the tests whose names match
END
      exit 0
      ;;
    --asan) preset=asan && shift ;;
    *) break ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/install-dependencies.sh

echo "== Packages"
install_dependencies programs tests
echo "== Build (build/$preset)"
cmake --preset "$preset"
cmake --build --preset "$preset" --parallel "$(nproc)"
echo "== Tests"
ctest --preset "$preset" "$@"
