#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Records what docker buildx bake --print says of each case: record.sh BUILDX
# [CASE...], where BUILDX is the plugin's binary. See README.md.
set -eu
buildx=$(realpath "$1")
shift
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- */
for dir in "$@"; do
	dir=${dir%/}
	[ -f "$dir/args" ] || continue
	(
		cd "$dir/files"
		set --
		while IFS= read -r line; do set -- "$@" "$line"; done <../args
		[ ! -f ../env ] || while IFS= read -r line; do export "${line?}"; done <../env
		"$buildx" bake --progress quiet --print "$@" >../expect.json
	) || echo "$dir: buildx failed" >&2
done
