#!/bin/bash

names=(ada bob eve)

greet() {
  local who="$1"
  echo "hello, $who"
}

for name in "${names[@]}"; do
  greet "$name"
done

if [[ ${#names[@]} -gt 2 && -n "${names[0]}" ]]; then
  echo "many names"
fi
