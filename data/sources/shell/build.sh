#!/bin/bash

jobs="${JOBS:-2}"
output="build"

prepare() {
  mkdir -p "$output"
  date > "$output/started"
}

prepare
until make -j "$jobs"; do
  jobs=$((jobs - 1))
  if [ "$jobs" -eq 0 ]; then
    exit 1
  fi
done
ls "$output"
