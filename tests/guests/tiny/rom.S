# The tiny guest as firmware: 64 KiB that run from ROM at 0xffff0000 (qemu -bios tiny.rom), with
# no SeaBIOS in between: the fastest start. What it does is told in core.inc.
.section .text
.org 0
.include "core.inc"
rom32:
    mov $s_rom,%edi
    xor %esi,%esi
    jmp core
s_rom: .asciz "rom"
.code16
real:                               # cs base 0xffff0000 (reset) -> protected mode
    cli
    lgdtl %cs:(gdtr - core)
    mov %cr0,%eax
    or $1,%al
    mov %eax,%cr0
    ljmpl $8,$prot
.code32
prot:
    mov $16,%eax
    mov %eax,%ds
    mov %eax,%ss
    mov %eax,%es
    jmp rom32
.code16
.org 0xfff0
    .byte 0xe9                      # jmp near to real
    .word real - . - 2
.org 0xffff
    .byte 0
