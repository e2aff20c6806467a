%define CELL 8

section .data
table: dq 3, 5, 8, 13
total: dq 0

section .text
global sum_table
sum_table:
    mov rcx, 4
    xor rax, rax
    lea rsi, [rel table]
.loop:
    add rax, [rsi]
    add rsi, CELL
    dec rcx
    jnz .loop
    mov [rel total], rax
    ret
