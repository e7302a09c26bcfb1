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
#SBATCH --wckey=submitit

# setup
module load cuda
source "$HOME/my env/bin/activate"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/jobs/TOKEN/%A_%a_%t_log.out --cpus-per-task=4 bash -c 'trap "" USR2; exec "$@"' bash PYTHON -u -m submitit.core._submit OUT/jobs/TOKEN
