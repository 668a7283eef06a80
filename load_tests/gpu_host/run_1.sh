#!/usr/bin/env bash
# Step 1: keep the first half, and describe the machine.
set -u
TG=${TG:-/var/tmp/tg}
mkdir -p "$TG"
cp .gpu1/half.1 "$TG/"
{
  date -u
  uname -a
  nvidia-smi
  nvidia-smi -q | grep -iE 'driver|mig mode|ecc|compute mode|clocks|jpeg' | head -40
  python3 -c 'import sys, sysconfig; print(sys.version, sysconfig.get_paths()["purelib"])'
  gcc --version | head -1
  nproc
  free -g | head -2
  df -h . | tail -1
  cat /sys/fs/cgroup/cpu.max
  python3 -m pip list
  ldconfig -p | grep -iE 'libcuda|nvjpeg|nvinfer|cudnn'
} > "${OUT:?}/machine.txt" 2>&1
tail -5 "$OUT/machine.txt"
