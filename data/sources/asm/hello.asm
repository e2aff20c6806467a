section .data
text: db "hello", 10
width: equ $ - text

section .text
global _start
_start:
    mov eax, 1
    mov edi, 1
    lea rsi, [rel text]
    mov edx, width
    syscall
    mov eax, 60
    xor edi, edi
    syscall
