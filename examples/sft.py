"""Fine-tune a language model on prompts and completions with trl. The three lines marked `log` add the log.

    pip install trl 'higgs-audio-trainer[trackio]'
    python examples/sft.py MODEL train.jsonl one
    python examples/sft.py MODEL train.jsonl other 1e-4

A line of train.jsonl is {"prompt": ..., "completion": ...}. Read and compare the logs of both runs:

    higgs-audio-trainer show --summary one
    higgs-audio-trainer diff one other
    higgs-audio-trainer report one other -o report.html
    trackio show --project higgs-audio-trainer
"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from higgs_audio_trainer import PredictionLogger  # log

_, model, data, output_dir, *learning_rate = sys.argv

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=float(learning_rate[0]) if learning_rate else 1e-3,
        lr_scheduler_type="cosine",
        logging_steps=10,
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=load_dataset("json", data_files=data, split="train"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
)
logger = PredictionLogger(output_dir, log_steps=10, sinks="console,jsonl,trackio")  # log
trainer.add_callback(logger)  # log
trainer.train()
trainer.save_model()
