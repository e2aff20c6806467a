#!/bin/bash

stage="${1:-test}"
version=$(cat VERSION)

check() {
  if ! grep -q "$version" CHANGES; then
    echo "no entry for $version"
    return 1
  fi
}

case "$stage" in
  test)
    check
    ;;
  live)
    check && echo "going live"
    ;;
  *)
    echo "unknown stage: $stage"
    ;;
esac
