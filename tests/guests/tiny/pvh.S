# The tiny guest as a kernel (qemu -kernel tiny.elf): PVH entry, also a Multiboot 1 kernel.
# What it does is told in core.inc; the layout is in pvh.ld.
.section .note.pvh,"a",@note
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh32
.section .text
.balign 4
mb: .long 0x1BADB002, 0, -0x1BADB002
.globl pvh32
.code32
pvh32:
    cli
    mov $s_kern,%edi
    xor %esi,%esi
    jmp core
s_kern: .asciz "kernel"
.include "core.inc"
