# The tiny guest as a bootable disk (tiny.img): boot sector at LBA 0, core in LBA 1 to 8, boot
# counter in LBA 9, so that a test sees whether the disk keeps what was written. See core.inc.
.section .text
.code16
start:
    ljmp $0,$1f
1:  xor %ax,%ax
    mov %ax,%ds
    mov %ax,%es
    mov %ax,%ss
    mov $0x7000,%sp
    cld
    mov $dap,%si                    # read LBA 1..9 to 0x7e00
    mov $0x42,%ah
    int $0x13
    jc fail
    mov counter,%eax
    inc %eax
    mov %eax,counter
    push %eax
    movw $1,dap+2                   # write LBA 9 back
    movw $counter,dap+4
    movl $9,dap+8
    mov $dap,%si
    mov $0x4300,%ax
    int $0x13
    pop %esi
    jnc 1f
    xor %esi,%esi                   # read-only disk: boots=0
1:  cli
    lgdtl gdtr
    mov %cr0,%eax
    or $1,%al
    mov %eax,%cr0
    ljmpl $8,$prot
fail:
    mov $0x3f8,%dx
    mov $'!',%al
    out %al,%dx
    hlt
    jmp fail
.code32
prot:
    mov $16,%eax
    mov %eax,%ds
    mov %eax,%ss
    mov %eax,%es
    mov $s_disk,%edi
    jmp core
s_disk: .asciz "disk"
.balign 4
dap: .byte 16,0
     .word 9, 0x7e00, 0
     .quad 1
.org 510
.word 0xaa55
.include "core.inc"
.org 9*512
counter: .long 0
.org 1048576
