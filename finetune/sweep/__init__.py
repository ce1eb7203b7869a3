"""Many runs of one recipe: their space, the order of its points, and the processes that train them.

A trial is `finetune train` on a frozen point, in a process and a folder of its own. Knows nothing of what is trained.
"""
