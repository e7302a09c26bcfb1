#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=2
#SBATCH --dependency=afterany:12:15
#SBATCH --exclude=n3
#SBATCH --job-name=some-TOKEN
#SBATCH --mem=1536M
#SBATCH --nodelist='n[1-4]'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/jobs/TOKEN/%j_0_log.out
#SBATCH --requeue
#SBATCH --reservation=today
#SBATCH --signal=USR2@90
#SBATCH --time=90

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

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/jobs/TOKEN/%j_%t_log.out --cpus-per-task=2 --cpu-bind=cores --mpi=none apptainer exec image.sif python -u -m slurm.job OUT/jobs/TOKEN


# teardown
bench_end $?