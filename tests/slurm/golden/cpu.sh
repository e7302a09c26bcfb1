#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterany:12:15
#SBATCH --exclude=n3
#SBATCH --job-name=some-TOKEN
#SBATCH --mem=1536M
#SBATCH --nodelist='n[1-4]'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=OUT/jobs/TOKEN/%j_0_log.out
#SBATCH --requeue
#SBATCH --reservation=today
#SBATCH --signal=USR2@90
#SBATCH --time=90
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/jobs/TOKEN/%j_%t_log.out --cpus-per-task=1 --cpu-bind=cores --mpi=none bash -c 'trap "" USR2; exec "$@"' bash apptainer exec image.sif python -u -m submitit.core._submit OUT/jobs/TOKEN
