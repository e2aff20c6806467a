#!/bin/sh

folder="${TMPDIR:-cache}"
days=7

cd "$folder" || exit 1
find . -name '*.log' -mtime "+$days" -print |
while read -r entry; do
  rm -- "$entry"
done

if [ -d old ]; then
  rmdir old
fi
echo "cleaned $folder"
