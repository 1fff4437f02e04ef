"""Fine-tune a language model on prompts and completions with trl; the lines marked `log` make its training readable.

    pip install trl
    python examples/sft.py MODEL train.jsonl OUTPUT_DIR [STEPS]

A line of train.jsonl is {"prompt": ..., "completion": ...}. Then:

    higgs-audio-trainer show --summary OUTPUT_DIR
"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from higgs_audio_trainer import PredictionLogger  # log

_, model, data, output_dir, *steps = sys.argv

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir,
        max_steps=int(steps[0]) if steps else 1000,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        logging_steps=10,
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=load_dataset("json", data_files=data, split="train"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
)
trainer.add_callback(PredictionLogger(output_dir, log_steps=10))  # log
trainer.train()
trainer.save_model()
