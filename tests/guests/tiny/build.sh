#!/bin/sh
# Builds the tiny guest into the folder named by the first argument (default: here):
#   tiny.rom   firmware, 64 KiB         qemu -bios tiny.rom
#   tiny.elf   kernel (PVH, Multiboot)  qemu -kernel tiny.elf
#   tiny.img   raw disk, 1 MiB          counts its boots in its sector 9
# Needs binutils (as, ld) and nothing else; the same sources give the same bytes.
set -eu
out=$(mkdir -p "${1:-.}" && cd "${1:-.}" && pwd)
cd "$(dirname "$0")"
# Whole or not at all: a machine that starts meanwhile must not read half a file.
part=$(mktemp -d "$out/part.XXXXXX")
trap 'rm -rf "$part"' EXIT
as --32 -o "$part/rom.o" rom.S
ld -m elf_i386 -Ttext 0xffff0000 --oformat binary -e 0 -o "$part/tiny.rom" "$part/rom.o"
as --32 -o "$part/pvh.o" pvh.S
ld -m elf_i386 -T pvh.ld -z noexecstack -o "$part/tiny.elf" "$part/pvh.o"
as --32 -o "$part/disk.o" disk.S
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e 0 -o "$part/tiny.img" "$part/disk.o"
mv "$part/tiny.rom" "$part/tiny.elf" "$part/tiny.img" "$out"
