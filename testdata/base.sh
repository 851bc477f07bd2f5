#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes the base images of the Dockerfile corpus, without a registry and
# without root: an OCI image layout in OUTDIR/layout and the same as one
# archive, OUTDIR/base.tar. The result depends on the busybox binary alone.
#
#   test/base     busybox, a few users, links, special modes; no /dev, /proc,
#                 /sys, no /etc/hosts and no /etc/resolv.conf
#   test/rich     on top of it, every field of an image config set
#   test/onbuild  test/base with triggers
#   test/bare     no environment and no command, Docker media types
#   test/multi    an index: test/base for this machine, and for linux/riscv64
#                 and linux/arm/v7 one that has a file and nothing to run
#
# usage: base.sh OUTDIR [BUSYBOX]
# BUSYBOX is a static busybox; without it the one on PATH, if it is static, or
# else the one in Debian's package busybox-static, fetched by apt-get.
set -eu
umask 022
export LC_ALL=C TZ=UTC

out=$1
busybox=${2:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

static() { [ -x "$1" ] && ! grep -aq /lib64/ld-linux "$1"; }

if [ -z "$busybox" ]; then
    busybox=$(command -v busybox || true)
    if [ -z "$busybox" ] || ! static "$busybox"; then
        (cd "$work" && apt-get download -q busybox-static >&2 && dpkg-deb -x busybox-static_*.deb deb)
        busybox=$work/deb/bin/busybox
    fi
fi
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac

# The root file system of test/base.
root=$work/root
mkdir -p "$root/bin" "$root/etc" "$root/home/app" "$root/home/other" "$root/opt/pair" "$root/root" \
    "$root/run" "$root/srv/real/sub" "$root/tmp" "$root/usr/local/bin" "$root/usr/local/share" "$root/var/lib/tree/deep"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
for name in '[' ash awk basename cat chgrp chmod chown cmp cp cut date dd df dirname du echo egrep env expr false \
    find grep gunzip gzip head hostname id ln ls md5sum mkdir mkfifo mknod mktemp mount mv nproc od printenv printf ps pwd \
    readlink realpath rm rmdir sed seq setpriv sh sha256sum sleep sort stat su sync tail tar tee test touch tr true \
    uname uniq unlink wc whoami xargs; do
    ln -s busybox "$root/bin/$name"
done
cat >"$root/etc/passwd" <<'EOF'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
other:x:1001:100:other:/home/other:/bin/sh
nogroup:x:1002:4242:primary group has no name:/:/bin/sh
EOF
cat >"$root/etc/group" <<'EOF'
root:x:0:
daemon:x:1:
users:x:100:app
app:x:1000:
extra:x:2000:app,other
EOF
echo base >"$root/etc/base-release"
echo one >"$root/opt/pair/one"
ln "$root/opt/pair/one" "$root/opt/pair/two"
echo sub >"$root/srv/real/sub/file"
echo top >"$root/srv/real/top"
ln -s real "$root/srv/rel"
ln -s /srv/real "$root/srv/abs"
ln -s ../../../../srv/real "$root/srv/dotdot"
ln -s nowhere "$root/srv/dangling"
ln -s loop "$root/srv/loop"
ln -s /run "$root/var/run"
echo a >"$root/var/lib/tree/a"
echo b >"$root/var/lib/tree/b"
echo c >"$root/var/lib/tree/deep/c"
echo setuid >"$root/usr/local/bin/suid"
chmod 4755 "$root/usr/local/bin/suid"
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
chmod 2775 "$root/srv/real"
echo profile >"$root/home/app/.profile"
chmod 600 "$root/home/app/.profile"

# The layer that test/rich has on top.
rich=$work/rich
mkdir -p "$rich/app" "$rich/data" "$rich/etc"
echo rich >"$rich/app/rich.txt"
echo 127.0.0.1 localhost >"$rich/etc/hosts"
echo nameserver 192.0.2.1 >"$rich/etc/resolv.conf"

# layer_tar DIR OWNED OUT: a tar of DIR; what is under OWNED belongs to 1000.
layer_tar() {
    tar --create --format=posix --pax-option=delete=atime,delete=ctime --sort=name --mtime=@1000000000 --numeric-owner \
        --owner=0 --group=0 --exclude="./$2" --file="$3" -C "$1" .
    tar --append --format=posix --pax-option=delete=atime,delete=ctime --sort=name --mtime=@1000000000 --numeric-owner \
        --owner=1000 --group=1000 --file="$3" -C "$1" "./$2"
}
layer_tar "$root" home/app "$work/base.layer"
layer_tar "$rich" app "$work/rich.layer"

layout=$out/layout
rm -rf "$layout"
mkdir -p "$layout/blobs/sha256"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

digest() { sha256sum "$1" | cut -d' ' -f1; }
size() { wc -c <"$1" | tr -d ' '; }

# blob MEDIATYPE FILE: stores the file, prints its descriptor.
blob() {
    d=$(digest "$2")
    cp "$2" "$layout/blobs/sha256/$d"
    printf '{"mediaType":"%s","digest":"sha256:%s","size":%s}' "$1" "$d" "$(size "$2")"
}

index=
# manifest CONFIG HISTORY LAYER...: sets m to the descriptor of an image for
# the platform of the variables arch and variant. Config is the value of the
# image config's "config"; media types are Docker's if docker is set.
manifest() {
    config=$1 history=$2
    shift 2
    layers= diffs=
    if [ -n "${docker:-}" ]; then
        t_layer=application/vnd.docker.image.rootfs.diff.tar.gzip
        t_config=application/vnd.docker.container.image.v1+json
        t_manifest=application/vnd.docker.distribution.manifest.v2+json
    else
        t_layer=application/vnd.oci.image.layer.v1.tar+gzip
        t_config=application/vnd.oci.image.config.v1+json
        t_manifest=application/vnd.oci.image.manifest.v1+json
    fi
    for l in "$@"; do
        gzip -n -9 -c "$l" >"$l.gz"
        layers="$layers${layers:+,}$(blob $t_layer "$l.gz")"
        diffs="$diffs${diffs:+,}\"sha256:$(digest "$l")\""
    done
    printf '{"created":"2001-09-09T01:46:40Z","author":"%s","architecture":"%s",%s"os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]},"history":%s}' \
        "${author:-}" "$arch" "${variant:+\"variant\":\"$variant\",}" "$config" "$diffs" "$history" >"$work/config"
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
        "$t_manifest" "$(blob $t_config "$work/config")" "$layers" >"$work/manifest"
    m=$(blob $t_manifest "$work/manifest")
    m="${m%\}},\"platform\":{\"architecture\":\"$arch\",${variant:+\"variant\":\"$variant\",}\"os\":\"linux\"}}"
}

# name NAME DESCRIPTOR: puts an image into the layout's index.
name() {
    index="$index${index:+,}${2%\}},\"annotations\":{\"io.containerd.image.name\":\"docker.io/$1:latest\",\"org.opencontainers.image.ref.name\":\"$1:latest\"}}"
    printf '%s %s\n' "$1" "$(printf %s "$2" | sed 's/.*"digest":"\([^"]*\)".*/\1/')" >>"$out/digests"
}

# image NAME CONFIG HISTORY LAYER...: makes and names an image.
image() {
    image_name=$1
    shift
    manifest "$@"
    name "$image_name" "$m"
}

: >"$out/digests"
path='"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'
base_history='{"created":"2001-09-09T01:46:40Z","created_by":"base.sh ADD rootfs.tar / "},{"created":"2001-09-09T01:46:40Z","created_by":"base.sh CMD [\"sh\"]","empty_layer":true}'

image test/base "{\"Env\":[$path],\"Cmd\":[\"sh\"]}" "[$base_history]" "$work/base.layer"

author='Rich <rich@example.org>' image test/rich '{
"User":"app","ExposedPorts":{"80/tcp":{},"53/udp":{}},"Env":['"$path"',"FOO=rich","EMPTY=","SPACED=a b"],
"Entrypoint":["/bin/echo","entry"],"Cmd":["cmd"],"Volumes":{"/data":{}},"WorkingDir":"/app",
"Labels":{"org.example.a":"base","org.example.b":"base"},"StopSignal":"SIGINT","Shell":["/bin/sh","-e","-c"],
"Healthcheck":{"Test":["CMD","/bin/true"],"Interval":5000000000,"Timeout":2000000000,"Retries":4}}' \
    "[$base_history,"'{"created":"2001-09-09T01:46:40Z","created_by":"COPY rich / # by hand","comment":"hand.made"},{"created":"2001-09-09T01:46:40Z","created_by":"LABEL org.example.a=base","empty_layer":true,"author":"someone"}]' \
    "$work/base.layer" "$work/rich.layer"

image test/onbuild "{\"Env\":[$path],\"Cmd\":[\"sh\"],\"WorkingDir\":\"/onbuild\",\"OnBuild\":[\"ARG WHO=nobody\",\"ENV ONBUILT=yes\",\"COPY trigger.txt ./\",\"RUN echo \$ONBUILT \$WHO > run.txt\",\"LABEL trigger=\$WHO\"]}" \
    "[$base_history]" "$work/base.layer"

docker=1 image test/bare '{}' '[{"created":"2001-09-09T01:46:40Z","created_by":"bare"}]' "$work/base.layer"

# The layer of test/multi for other machines.
other=$work/other
mkdir -p "$other/etc" "$other/home/app"
echo other >"$other/etc/machine"
layer_tar "$other" home/app "$work/other.layer"
host=$arch
manifest "{\"Env\":[$path],\"Cmd\":[\"sh\"]}" "[$base_history]" "$work/base.layer"
multi=$m
arch=riscv64
manifest '{"Env":["PATH=/bin","MACHINE=riscv64"]}' '[{"created":"2001-09-09T01:46:40Z","created_by":"other"}]' "$work/other.layer"
multi="$multi,$m"
arch=arm variant=v7
manifest '{"Env":["PATH=/bin","MACHINE=armv7"],"User":"7"}' '[{"created":"2001-09-09T01:46:40Z","created_by":"other"}]' "$work/other.layer"
multi="$multi,$m"
arch=$host variant=
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "$multi" >"$work/multi"
name test/multi "$(blob application/vnd.oci.image.index.v1+json "$work/multi")"

printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "$index" >"$layout/index.json"
tar --create --format=ustar --sort=name --mtime=@1000000000 --numeric-owner --owner=0 --group=0 \
    --file="$out/base.tar" -C "$layout" blobs index.json oci-layout
