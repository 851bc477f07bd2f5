#!/bin/sh
# Renders the paragraphs in a directory as one page.
set -eu
title=$1 dir=$2
printf '<!doctype html>\n<html>\n<head><meta charset="utf-8"><title>%s</title></head>\n<body>\n<h1>%s</h1>\n' "$title" "$title"
for f in "$dir"/*.txt; do
	printf '<p>%s</p>\n' "$(cat "$f")"
done
printf '</body>\n</html>\n'
