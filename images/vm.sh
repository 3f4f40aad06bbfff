# A virtual machine for test.sh and run.sh: start, ask the guest agent, stop. Sourced.
# The agent is reached over TCP on 127.0.0.1, which bash speaks by itself (/dev/tcp).
# shellcheck shell=bash

# vm_arguments VARIANT DISK WORK [NETWORK OPTION...]: sets VM_ARGUMENTS, all but the serial line and the agent.
# The firmware's variables are kept in WORK.
vm_arguments() {
    local variant=$1 disk=$2 work=$3 network=user,id=net machine=q35,vmport=off option firmware
    shift 3
    for option in "$@"; do network=$network,$option; done
    if [ "$variant" = uboot ]; then
        # On q35 this U-Boot finds no disk and waits long for SATA.
        machine=pc,vmport=off
        firmware=(-bios /usr/lib/u-boot/qemu-x86/u-boot.rom)
    else
        [ -e "$work/vars.fd" ] || cp /usr/share/OVMF/OVMF_VARS_4M.fd "$work/vars.fd"
        # shellcheck disable=SC2054 # the commas are for QEMU
        firmware=(-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd
            -drive "if=pflash,format=raw,file=$work/vars.fd")
    fi
    # shellcheck disable=SC2054 # the commas are for QEMU
    VM_ARGUMENTS=(-accel tcg,thread=multi -machine "$machine" -cpu max -m 512 -smp 2 -nodefaults -display none
        "${firmware[@]}"
        -drive "if=none,id=disk,format=raw,file=$disk,discard=unmap" -device virtio-blk-pci,drive=disk,bootindex=0
        -netdev "$network" -device virtio-net-pci,netdev=net,romfile=
        -device virtio-rng-pci -device i6300esb -action watchdog=reset
        -uuid 5f1b51de-1111-4000-8000-000000000001)
}

# vm_start VARIANT DISK WORK: starts in the background; sets VM_PID and opens the agent's connection.
# WORK gets serial.log.
vm_start() {
    local port=$((20000 + RANDOM % 20000))
    vm_arguments "$@"
    qemu-system-x86_64 "${VM_ARGUMENTS[@]}" \
        -device virtio-serial-pci -chardev "socket,id=qga,host=127.0.0.1,port=$port,server=on,wait=off" \
        -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0 \
        -chardev "file,id=serial,path=$3/serial.log,append=on" -serial chardev:serial &
    VM_PID=$!
    until { exec 8<> "/dev/tcp/127.0.0.1/$port"; } 2> /dev/null; do
        kill -0 "$VM_PID" || return 1
        sleep 0.1
    done
}

# vm_kill: as if the power was cut.
vm_kill() {
    kill -9 "$VM_PID" 2> /dev/null || true
    wait "$VM_PID" 2> /dev/null || true
    exec 8>&-
}

# agent JSON: one request to the guest agent; prints its answer. Fails when the guest does not answer in 5 s.
# One connection for the life of the machine: QEMU serves one at a time.
agent() {
    local answer token=$RANDOM$RANDOM
    # Answers to requests that we gave up may still be under way: the token says where ours begin.
    printf '{"execute":"guest-sync","arguments":{"id":%s}}\n%s\n' "$token" "$1" >&8
    until [[ ${answer:-} == *"\"return\": $token"* ]]; do
        IFS= read -r -t 5 -u 8 answer || return 1
    done
    IFS= read -r -t 10 -u 8 answer || return 1
    printf '%s\n' "$answer"
}

# guest COMMAND: runs a shell command in the guest, prints its output, returns its exit code.
guest() {
    local started pid status code
    local command=${1//\\/\\\\}
    command=${command//\"/\\\"}
    started=$(agent "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\"$command 2>&1\"],\"capture-output\":true}}") || return 125
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' <<< "$started")
    [ -n "$pid" ] || { echo "$started"; return 125; }
    until status=$(agent "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":$pid}}") && [[ $status == *'"exited": true'* ]]; do
        kill -0 "$VM_PID" 2> /dev/null || return 125
    done
    sed -n 's/.*"out-data": "\([^"]*\)".*/\1/p' <<< "$status" | base64 -d
    code=$(sed -n 's/.*"exitcode": \([0-9]*\).*/\1/p' <<< "$status")
    return "${code:-125}"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds, or fails after the deadline.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || { echo "not within the deadline: $what" >&2; return 1; }
        kill -0 "$VM_PID" 2> /dev/null || { echo "the machine has stopped: $what" >&2; return 1; }
        sleep 0.3
    done
}
