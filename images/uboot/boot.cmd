# U-Boot for two slots with counted tries. State: two copies of a CRC-checked environment file, 4096 bytes each.
# For integrators: change the kernel command line and the way the kernel is started (`start`), keep the rest. Needs of
# U-Boot: hush, `env import -c`, `env export -c`, `fatload`, `fatwrite`; `setexpr` is not needed.
#
#   BOOT_ORDER="A B"  the slots to try, best first; a slot that is not in it can not be booted
#   BOOT_A_OK=1       confirmed: booted without counting, so that no number of power cuts locks it out
#   BOOT_A_LEFT       not confirmed: lowered, on disk, before each try; at 0 the slot is passed over
#   BOOT_A_BAD        rejected by the health checks; here the same as no tries left
#
# What must hold here, and what commonly goes wrong elsewhere:
# - Count only what is unconfirmed, and never put counters up again.
# - A try that can not be written down is not made.
# - The copies are written one after the other, each in one piece: a power cut leaves one that is whole. Readers take
#   the first whole one.
# - A kernel that does not load is not the end: the next slot follows.
# - The system hears who started it: `flipside.counted=uboot` on the kernel command line. Without it Flipside writes nothing,
#   because another script may not count.
setenv part "${devtype} ${devnum}:${distro_bootpart}"
setenv names BOOT_ORDER BOOT_A_OK BOOT_A_LEFT BOOT_A_BAD BOOT_B_OK BOOT_B_LEFT BOOT_B_BAD
setenv envfile flipside/uboot.env
setenv envfile2 flipside/uboot-redund.env

# The state is read and written where the kernel goes later: hush still reads this script at ${scriptaddr}.
setenv read_env 'fatload ${part} ${kernel_addr_r} ${file} 1000 && env import -c ${kernel_addr_r} 1000 ${names}'
setenv write_env 'env export -c -s 1000 ${kernel_addr_r} ${names} && fatwrite ${part} ${kernel_addr_r} ${envfile} 1000 && fatwrite ${part} ${kernel_addr_r} ${envfile2} 1000'
# lower: ${left} less one, up to nine.
setenv lower 'if test ${left} = 1; then setenv left 0; elif test ${left} = 2; then setenv left 1; elif test ${left} = 3; then setenv left 2; elif test ${left} = 4; then setenv left 3; elif test ${left} = 5; then setenv left 4; elif test ${left} = 6; then setenv left 5; elif test ${left} = 7; then setenv left 6; elif test ${left} = 8; then setenv left 7; elif test ${left} = 9; then setenv left 8; else setenv left 0; fi'
# Far above the kernel, which unpacks itself to 16 MiB and needs some 60 MiB there; U-Boot's own choice lies within.
setenv initrd_addr 8000000
# start: boots slot ${slot}. Returns only when its kernel or initramfs can not be loaded.
setenv start 'echo "flipside: slot ${slot}"; setenv bootargs "@CMDLINE@ flipside.slot=${slot} flipside.counted=uboot"; if fatload ${part} ${kernel_addr_r} flipside/${slot}/vmlinuz; then setenv kernel_size ${filesize}; if fatload ${part} ${initrd_addr} flipside/${slot}/initrd.img; then zboot ${kernel_addr_r} ${kernel_size} ${initrd_addr} ${filesize}; fi; fi; echo "flipside: slot ${slot} can not be loaded"'

setenv BOOT_ORDER
setenv file ${envfile}
if run read_env; then
    echo "flipside: state read"
else
    setenv file ${envfile2}
    if run read_env; then echo "flipside: state read from the second copy"; fi
fi

for one in ${BOOT_ORDER}; do
    if test "${one}" = A; then
        setenv slot a
        if test "${BOOT_A_OK}" = 1; then
            run start
        elif test -n "${BOOT_A_LEFT}" && test "${BOOT_A_LEFT}" != 0; then
            setenv left ${BOOT_A_LEFT}
            run lower
            setenv BOOT_A_LEFT ${left}
            if run write_env; then run start; fi
        fi
    elif test "${one}" = B; then
        setenv slot b
        if test "${BOOT_B_OK}" = 1; then
            run start
        elif test -n "${BOOT_B_LEFT}" && test "${BOOT_B_LEFT}" != 0; then
            setenv left ${BOOT_B_LEFT}
            run lower
            setenv BOOT_B_LEFT ${left}
            if run write_env; then run start; fi
        fi
    fi
done

# Nothing confirmed and no tries left, or both copies are damaged. An appliance that stands here helps nobody: boot
# what there is, uncounted, and let Flipside, which sees the same files, say what is wrong and repair it.
echo "flipside: no slot is confirmed; booting what can be loaded"
setenv slot a
run start
setenv slot b
run start
sleep 10
reset
