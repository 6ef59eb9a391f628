#!/usr/bin/env bash
# Makes a root directory with everything that `cargo xtask cross --root DIR` needs: Debian's Rust, its
# standard library for Arm and in source, a linker for Arm, and an emulator. About 3 GB.
#
#     sudo xtask/cross-root.sh DIR
#
# Needs Debian or Ubuntu with `debootstrap`, and root. Running it again only mounts what a restart of the
# machine unmounted. To remove the root, unmount DIR/keid, DIR/cargo, DIR/proc and DIR/dev first.
set -euo pipefail

root=${1:?usage: $0 DIR}
checkout=$(cd "$(dirname "$0")/.." && pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
suite=forky
packages=(
  cargo rustc rust-src libstd-rust-dev libstd-rust-dev:arm64
  gcc g++ libc6-dev
  gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross
  qemu-user
)

if ! [ -e "$root/usr/bin/qemu-aarch64" ]; then
  # Older versions of debootstrap do not know the suite, but all suites are made alike.
  scripts=/usr/share/debootstrap/scripts
  [ -e "$scripts/$suite" ] || ln -s sid "$scripts/$suite"
  [ -e "$root/etc/debian_version" ] ||
    debootstrap --no-merged-usr --variant=minbase --include=ca-certificates "$suite" "$root"
  # The network of this machine: names, proxies and authorities.
  cp /etc/resolv.conf "$root/etc/"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  chroot "$root" dpkg --add-architecture arm64
  # A mirror that stands still is past the date until which its lists call themselves valid.
  apt=(chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Check-Valid-Until=false)
  "${apt[@]}" update -q
  "${apt[@]}" install -qy --no-install-recommends "${packages[@]}"
fi

bind() { # source, directory inside the root
  mkdir -p "$root/$2"
  mountpoint -q "$root/$2" || mount --rbind "$1" "$root/$2"
}
mkdir -p "$cargo_home"
bind "$checkout" keid
bind "$cargo_home" cargo
bind /proc proc
bind /dev dev
