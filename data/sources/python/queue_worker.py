import time


class Worker:
    limit = 3

    def __init__(self, jobs: list[str]) -> None:
        self.jobs = jobs
        self.failed = 0

    def run(self) -> int:
        done = 0
        while self.jobs and self.failed < self.limit:
            job = self.jobs.pop()
            if not self.handle(job):
                self.failed += 1
                time.sleep(0.1)
                continue
            done += 1
        return done

    def handle(self, job: str) -> bool:
        print("job", job)
        return bool(job)
