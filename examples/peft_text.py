"""1cycle of LoRA adapters (PEFT): a small GPT-2 learns the order of the alphabet, its own weights stay as they are:
pip install -c constraints.txt ".[peft,transformers]" && python examples/peft_text.py"""

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

import clrfast

EPOCHS = 4
torch.manual_seed(0)
alphabet = torch.arange(26).repeat(40)
windows = [{"input_ids": alphabet[start : start + 16], "labels": alphabet[start : start + 16]} for start in range(1000)]
loader = DataLoader(windows, batch_size=20, shuffle=True)

config = GPT2Config(vocab_size=26, n_positions=16, n_embd=32, n_layer=2, n_head=2)
adapters = LoraConfig(r=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
model = get_peft_model(GPT2LMHeadModel(config), adapters)
optimizer = clrfast.AdamW([param for param in model.parameters() if param.requires_grad], weight_decay=0.0)

rate = clrfast.range_test(model, loader=loader, optimizer=optimizer).suggest()
optimizer.set_schedule(clrfast.one_cycle(rate.max_lr, EPOCHS * len(loader)))
for _ in range(EPOCHS):
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step(loss=loss)
        optimizer.zero_grad()

losses = optimizer.control.losses
print(f"rate: {rate}\nloss: {losses[0]:.3f} at the start, {losses[-10:].mean():.3f} at the end")
