"""Modules that a user could name to the command line, by file name; fixture ``task_modules`` writes them."""

SOURCES = {
    "good.py": """
        import torch
        from clrfast import Task
        def make_task():
            x = torch.randn(64, 3)
            return Task(torch.nn.Linear(3, 1), torch.nn.MSELoss(), [(x, x.sum(1, keepdim=True))] * 4)
        def flat():
            return Task(torch.nn.Linear(3, 1, bias=False), torch.nn.MSELoss(), [(torch.zeros(4, 3), torch.ones(4, 1))])
        def returns_other(): return 3
        def raises(): raise KeyError("data")
        def needs_argument(path): return None
        not_callable = 5
    """,
    "broken.py": "1 / 0",
    "needs.py": "import not_installed_anywhere",
}

OWN_TASK = """
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from clrfast import Task
    def make_task(seed):
        x = torch.randn(240, 6, generator=torch.Generator().manual_seed(seed))
        y = (x[:, 0] + x[:, 1] > 0).long()
        train, val = TensorDataset(x[:200], y[:200]), TensorDataset(x[200:], y[200:])
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(train, 20, shuffle=True, generator=generator)
        return Task(torch.nn.Linear(6, 2), torch.nn.CrossEntropyLoss(), loader, DataLoader(val, 40))
"""
"""A task with validation data; fixture ``own_task`` writes it as ``own.py``."""
