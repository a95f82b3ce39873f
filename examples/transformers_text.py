"""1cycle in Hugging Face's Trainer, at the rate that it finds; a small BERT learns which sentences are questions:
pip install -c constraints.txt ".[transformers]" && python examples/transformers_text.py"""

import random
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from clrfast.integrations.transformers import OneCycleTrainer

SUBJECTS, VERBS = ["she", "he", "it", "we", "you", "they"], ["runs", "sees", "finds", "learns", "reads"]


def samples(n, seed):
    draw = random.Random(seed)
    for _ in range(n):
        words, asks = [draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(SUBJECTS)], draw.random() < 0.5
        text = " ".join(["does", *words] if asks else [*words, "too"])
        codes = [ord(character) for character in text.ljust(24)]
        yield {"input_ids": torch.tensor(codes[:24]), "labels": int(asks)}


torch.manual_seed(0)
config = BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = BertForSequenceClassification(config)
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        folder, num_train_epochs=4, per_device_train_batch_size=16, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = OneCycleTrainer(model=model, args=args, train_dataset=list(samples(512, 0)))
    trainer.train()

model.eval()
test = list(samples(200, 1))
with torch.no_grad():
    found = model(torch.stack([each["input_ids"] for each in test])).logits.argmax(1)
accuracy = (found == torch.tensor([each["labels"] for each in test])).float().mean()
print(f"rate: {trainer.suggestion}\naccuracy on new sentences: {accuracy:.1%}")
