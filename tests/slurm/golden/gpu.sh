#!/bin/bash

# Parameters
#SBATCH --account=my_project
#SBATCH --array=0-2%2
#SBATCH --comment='two words'
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=4
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --job-name=some-TOKEN
#SBATCH --mail-type=END,FAIL
#SBATCH --mem=16384M
#SBATCH --nice=100
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/jobs/TOKEN/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=240

# setup
export BENCH_JOB_BEGAN="${SLURM_JOB_START_TIME:-$(date +%s)}"
# The job is queued again from here, since Python may run in a container that has no scontrol.
bench_end() {
  bench_code=$1
  case "$bench_code" in 130|143) bench_term=1 ;; 140) bench_code=144 ;; esac
  # After SIGTERM only the grace before a preemption leaves a job running; it would be over when it ends by itself.
  if [ -n "$bench_term" ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then bench_code=144; fi
  [ "$bench_code" -eq 144 ] || exit "$bench_code"
  for bench_try in $(seq 12); do
    if scontrol requeue "$SLURM_JOB_ID"; then echo "bench: job $SLURM_JOB_ID queued again"; exit 0; fi
    echo "bench: cannot queue job $SLURM_JOB_ID again (attempt $bench_try of 12)"
    sleep 5
  done
  exit "$bench_code"
}
trap 'bench_term=1' TERM
trap 'bench_code=$?; [ ${#BASH_SOURCE[@]} -gt 1 ] || { echo "bench: error: set-up line failed with exit code $bench_code: $BASH_COMMAND"; bench_end $bench_code; }' ERR
module load cuda
source "$HOME/my env/bin/activate"
trap - ERR

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/jobs/TOKEN/%A_%a_%t_log.out --cpus-per-task=4 PYTHON -u -m slurm.job OUT/jobs/TOKEN


# teardown
bench_end $?