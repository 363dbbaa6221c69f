#!/bin/bash
# A run on several machines that ssh reaches without a password, with this folder at the same place on all of them.
#
#   NODES="node0 node1" bash configs/cluster/ssh.sh --config configs/experiment/align_7b.yaml \
#     --data.init_args.batch_size 16 --run_dir runs/align_7b/a --ckpt_path auto
#
# Lightning starts a process for each device of a node. When one node fails, the others have ten seconds to say where they
# stood, and are ended; the same command goes on from the last checkpoint.
read -ra nodes <<< "$NODES"
mapfile -t settings < <(env | grep -E "^(GLOO_|NCCL_|OMP_|HF_HOME=|HF_HUB_OFFLINE=|LLAVA_PL_CACHE=)")
settings+=("MASTER_ADDR=${nodes[0]}" "MASTER_PORT=${MASTER_PORT:-29500}")
words=("$(command -v llava-pl)" fit "$@" --trainer.num_nodes "${#nodes[@]}")
trap 'kill $(jobs -p) 2> /dev/null' EXIT
for rank in "${!nodes[@]}"; do
  command=$(printf "%q " cd "$PWD")"&& "$(printf "%q " env "${settings[@]}" "NODE_RANK=$rank" "${words[@]}")
  ssh -tt "${nodes[$rank]}" "$command" < /dev/null &  # -tt: what runs there ends with the connection
done
for _ in "${nodes[@]}"; do
  wait -n || { status=$?; sleep 10; exit "$status"; }
done
