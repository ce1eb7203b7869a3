"""`python -m finetune`: what torchrun and accelerate launch."""

from finetune.cli import main

if __name__ == "__main__":
    main()
