#!/bin/sh
# Builds the tiny guest into the folder named by the first argument (default: here):
#   tiny.rom   firmware, 64 KiB         qemu -bios tiny.rom
#   tiny.elf   kernel (PVH, Multiboot)  qemu -kernel tiny.elf
#   tiny.img   raw disk, 1 MiB          counts its boots in its sector 9
# Needs binutils (as, ld) and nothing else; the same sources give the same bytes.
set -eu
out=$(mkdir -p "${1:-.}" && cd "${1:-.}" && pwd)
cd "$(dirname "$0")"
as --32 -o "$out/rom.o" rom.S
ld -m elf_i386 -Ttext 0xffff0000 --oformat binary -e 0 -o "$out/tiny.rom" "$out/rom.o"
as --32 -o "$out/pvh.o" pvh.S
ld -m elf_i386 -T pvh.ld -z noexecstack -o "$out/tiny.elf" "$out/pvh.o"
as --32 -o "$out/disk.o" disk.S
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e 0 -o "$out/tiny.img" "$out/disk.o"
rm -f "$out/rom.o" "$out/pvh.o" "$out/disk.o"
