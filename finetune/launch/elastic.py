"""torchrun, but that its exit code is that of its ranks: whoever starts machines again goes by that.

python -m finetune.launch.elastic [torchrun's options] -m finetune train …

The same as `torchrun`, which ends by 1 whatever the ranks end by.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from finetune.errors import ENVIRONMENT, RESUMABLE


def main() -> None:
    """Exits as the rank that failed first; one that was killed has no code, which is the machine's fault."""
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else ENVIRONMENT)
    except SignalException:
        # The ranks were told, and given the time that --shutdown-timeout says.
        sys.exit(RESUMABLE)


if __name__ == "__main__":
    main()
