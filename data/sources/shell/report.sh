#!/bin/bash

total=0
while read -r name amount; do
  total=$((total + amount))
  printf '%s %d\n' "$name" "$amount"
done < orders.txt

if [ "$total" -gt 100 ]; then
  echo "large: $total"
else
  echo "small: $total"
fi
