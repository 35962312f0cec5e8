#!/usr/bin/env bash
# The whole suite: every crate's tests, the documentation's examples, the proof that running an artifact needs
# no LLVM, and a program outside the workspace. The last line sums up every test runner's own summary.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=1

tools/without-llvm.sh 2>&1 | tee -a "$log" || status=1
tools/external.sh 2>&1 | tee -a "$log" || status=1

awk '
  /^test result:/ { passed += $4; failed += $6; ignored += $8 }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }
' "$log"
exit $status
