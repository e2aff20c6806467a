#!/bin/bash
set -e

target="$1"
limit=5

copy_all() {
  local folder="$1"
  for file in "$folder"/*.txt; do
    cp "$file" "$target"
  done
}

if [ -z "$target" ]; then
  echo "usage: backup TARGET" >&2
  exit 1
fi

copy_all notes
echo "kept $limit copies"
