// sim: runs the cluster simulation on many seeds.
//
//   sim [--seeds N] [--seed S] [--jobs J] [--trace]
//   sim --plant NAME [the same]   with a planted bug (builds with -DHOLDFAST_PLANTS=ON)
//   sim --plants [--plant NAME] [--seeds N]   each planted bug (or one) until a seed fails; 1 when one is not found. It
//                                             begins with the seed that found it before.
//   sim --clones [the same]       some of the scenarios end with a linked clone that outlives its source
//   sim --cycles N [--seed S]     seeds in which the whole cluster loses its power again and again, until it did N
//   times
//
// --seed S alone runs that seed; with --seeds N it runs S, S+1, ... Each failing seed prints one line and how to
// replay it. Every ten seconds a line on standard error says how far it is; after SIGINT or SIGTERM the summary tells
// of the seeds that were done (exit code 128 + signal). Exit code 1 when any failed. Seeds run in child processes:
// killed simulated processes leave their memory behind, and a failed CHECK ends only its own seed.
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/plant.h"
#include "sim_cluster/simulation.h"

namespace {

using holdfast::sim::Outcome;

constexpr std::uint64_t kBatch = 16;  // seeds a child runs before it gives its memory back
constexpr std::uint64_t kPlantSeeds = 2'000;
constexpr std::uint64_t kNearSeeds = 16;  // tried first, from the seed that found a planted bug before

constexpr std::chrono::seconds kProgressInterval{10};

volatile sig_atomic_t interrupted_by = 0;
void note_interrupt(int signal) { interrupted_by = signal; }

struct Options {
  std::uint64_t first = 1;
  std::uint64_t count = 300;
  unsigned jobs = 4;
  bool trace = false;
  std::string plant;
  bool all_plants = false;
  std::uint64_t cycles = 0;
  bool clones = false;
};

struct Totals {
  std::uint64_t passed = 0, failed = 0, lost = 0, events = 0, operations = 0, failed_operations = 0, blackouts = 0;
  std::uint64_t losses_accepted = 0, kills = 0, power_losses = 0, power_cycles = 0;
  double virtual_seconds = 0, recovery_max = 0, slowest = 0;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

void write_all(int fd, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    ssize_t written = write(fd, text.data() + at, text.size() - at);
    if (written <= 0) _exit(3);
    at += static_cast<std::size_t>(written);
  }
}

std::string encode(std::uint64_t seed, const Outcome& outcome) {
  char numbers[320];
  std::snprintf(numbers, sizeof numbers, "end %llu %d %llu %llu %llu %u %u %llu %llu %llu %.3f %.3f %.3f ",
                static_cast<unsigned long long>(seed), outcome.lost ? 1 : 0,
                static_cast<unsigned long long>(outcome.events), static_cast<unsigned long long>(outcome.operations),
                static_cast<unsigned long long>(outcome.failed_operations), outcome.blackouts, outcome.losses_accepted,
                static_cast<unsigned long long>(outcome.kills), static_cast<unsigned long long>(outcome.power_losses),
                static_cast<unsigned long long>(outcome.power_cycles), outcome.virtual_seconds,
                outcome.recovery_seconds, outcome.slowest_seconds);
  return numbers + first_line(outcome.violation) + "\n";
}

[[noreturn]] void run_batch(int to_parent, int errors, std::uint64_t first, std::uint64_t end,
                            holdfast::sim::Variant variant) {
  dup2(errors, STDERR_FILENO);
  // They may have gone to the whole group; the parent ends its children.
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    write_all(to_parent, "begin " + std::to_string(seed) + "\n");
    write_all(to_parent, encode(seed, holdfast::sim::simulate(seed, false, variant)));
  }
  _exit(0);
}

// The most telling line that a crashed child left on standard error.
std::string cause_of_crash(FILE* errors, int status) {
  std::rewind(errors);
  std::string found;
  char line[2048];
  while (std::fgets(line, sizeof line, errors)) {
    bool telling = std::strstr(line, "CHECK") || std::strstr(line, "ERROR:") || std::strstr(line, "runtime error");
    if (telling && found.empty()) found = first_line(line);
  }
  std::string how = WIFSIGNALED(status) ? std::string("ended by ") + strsignal(WTERMSIG(status))
                                        : "exit code " + std::to_string(WEXITSTATUS(status));
  return found.empty() ? how : found + " (" + how + ")";
}

class Runner {
 public:
  explicit Runner(Options options) : options_(std::move(options)), next_(options_.first) {}

  struct Failure {
    std::uint64_t seed;
    std::string why;
  };

  int run() {
    began_ = shown_ = std::chrono::steady_clock::now();
    run_seeds(kBatch, false);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    if (interrupted_by != 0) {
      std::printf("interrupted by signal %d after %llu of %llu seeds\n", static_cast<int>(interrupted_by), ull(done()),
                  ull(options_.count));
    }
    std::printf(
        "%llu seeds passed, %llu failed in %.1f s; %llu events, %.0f simulated seconds, %llu operations (%llu failed), "
        "%llu losses of unflushed writes, %llu losses that somebody was asked about, %llu volumes lost to injected "
        "damage, longest recovery %.1f s, slowest "
        "operation %.1f s\n",
        ull(totals_.passed), ull(totals_.failed), seconds, ull(totals_.events), totals_.virtual_seconds,
        ull(totals_.operations), ull(totals_.failed_operations), ull(totals_.blackouts), ull(totals_.losses_accepted),
        ull(totals_.lost), totals_.recovery_max, totals_.slowest);
    std::printf(
        "%llu processes killed, %llu nodes and %llu times whole clusters lost their power: %llu runs in which "
        "acknowledged "
        "data was lost, copies differed or another promise was broken\n",
        ull(totals_.kills), ull(totals_.power_losses), ull(totals_.power_cycles), ull(totals_.failed));
    if (interrupted_by != 0) return 128 + static_cast<int>(interrupted_by);
    return totals_.failed == 0 ? 0 : 1;
  }

  // The first seed that fails, quietly; nullopt: none does.
  std::optional<Failure> run_until_failure() {
    quiet_ = true;
    run_seeds(2, true);
    return first_failure_;
  }

 private:
  void run_seeds(std::uint64_t batch, bool until_failure) {
    while (next_ < end() || !children_.empty()) {
      if (until_failure && first_failure_) next_ = end();
      if (options_.cycles > 0 && totals_.power_cycles >= options_.cycles) next_ = end();
      while (next_ < end() && children_.size() < options_.jobs) {
        std::uint64_t batch_end = std::min(next_ + batch, end());
        start(next_, batch_end);
        next_ = batch_end;
      }
      if (!children_.empty()) take_reports();
      if (interrupted_by != 0) return kill_children();
      show_progress();
    }
  }

  // Seeds under way count for nothing.
  void kill_children() {
    for (auto& [pid, child] : children_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
      std::fclose(child.errors);
      close(child.from);
    }
    children_.clear();
    next_ = end();
  }

  std::uint64_t done() const { return totals_.passed + totals_.failed; }

  void show_progress() {
    auto now = std::chrono::steady_clock::now();
    if (quiet_ || now - shown_ < kProgressInterval) return;
    shown_ = now;
    double seconds = std::chrono::duration<double>(now - began_).count();
    double rate = static_cast<double>(done()) / seconds;
    double left = rate > 0 ? static_cast<double>(options_.count - done()) / rate : 0;
    std::fprintf(stderr, "%llu of %llu seeds done, %llu failed, %.1f seeds/s, about %.0f s left\n", ull(done()),
                 ull(options_.count), ull(totals_.failed), rate, left);
  }

  struct Child {
    int from = -1;
    FILE* errors = nullptr;
    std::string buffer;
    std::uint64_t current = 0;
    std::uint64_t end = 0;
  };

  static unsigned long long ull(std::uint64_t value) { return value; }
  holdfast::sim::Variant variant() const { return {options_.cycles > 0, options_.clones}; }
  std::uint64_t end() const { return options_.first + options_.count; }

  void start(std::uint64_t first, std::uint64_t end) {
    int ends[2];
    FILE* errors = std::tmpfile();
    if (!errors || pipe(ends) != 0) {
      std::perror("sim");
      std::exit(2);
    }
    std::fflush(nullptr);
    pid_t pid = fork();
    if (pid < 0) {
      std::perror("sim: fork");
      std::exit(2);
    }
    if (pid == 0) {
      close(ends[0]);
      run_batch(ends[1], fileno(errors), first, end, variant());
    }
    close(ends[1]);
    children_[pid] = Child{ends[0], errors, {}, first, end};
  }

  void take_reports() {
    std::vector<pollfd> waiting;
    std::vector<pid_t> pids;
    for (auto& [pid, child] : children_) {
      waiting.push_back({child.from, POLLIN, 0});
      pids.push_back(pid);
    }
    // Ends now and then for the progress, and when a signal comes.
    if (poll(waiting.data(), waiting.size(), 1'000) <= 0) return;
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) read_from(pids[i]);
    }
  }

  void read_from(pid_t pid) {
    Child& child = children_[pid];
    char bytes[4096];
    ssize_t got = read(child.from, bytes, sizeof bytes);
    if (got > 0) {
      child.buffer.append(bytes, static_cast<std::size_t>(got));
      for (std::size_t at; (at = child.buffer.find('\n')) != std::string::npos;) {
        take_line(child, child.buffer.substr(0, at));
        child.buffer.erase(0, at + 1);
      }
      return;
    }
    int status = 0;
    waitpid(pid, &status, 0);
    std::string crash;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) crash = cause_of_crash(child.errors, status);
    std::fclose(child.errors);
    close(child.from);
    Child ended = std::move(child);
    children_.erase(pid);
    if (crash.empty()) return;
    fail(ended.current, crash);
    if (ended.current + 1 < ended.end) start(ended.current + 1, ended.end);
  }

  void take_line(Child& child, const std::string& line) {
    unsigned long long seed = 0, events = 0, operations = 0, failed = 0;
    int lost = 0, length = 0;
    unsigned blackouts = 0, losses_accepted = 0;
    unsigned long long kills = 0, power_losses = 0, power_cycles = 0;
    double seconds = 0, recovery = 0, slowest = 0;
    if (std::sscanf(line.c_str(), "begin %llu", &seed) == 1) {
      child.current = seed;
      return;
    }
    if (std::sscanf(line.c_str(), "end %llu %d %llu %llu %llu %u %u %llu %llu %llu %lf %lf %lf %n", &seed, &lost,
                    &events, &operations, &failed, &blackouts, &losses_accepted, &kills, &power_losses, &power_cycles,
                    &seconds, &recovery, &slowest, &length) < 13) {
      return;
    }
    totals_.events += events;
    totals_.operations += operations;
    totals_.failed_operations += failed;
    totals_.blackouts += blackouts;
    totals_.losses_accepted += losses_accepted;
    totals_.kills += kills;
    totals_.power_losses += power_losses;
    totals_.power_cycles += power_cycles;
    totals_.lost += static_cast<std::uint64_t>(lost);
    totals_.virtual_seconds += seconds;
    totals_.recovery_max = std::max(totals_.recovery_max, recovery);
    totals_.slowest = std::max(totals_.slowest, slowest);
    std::string violation = line.substr(static_cast<std::size_t>(length));
    if (violation.empty()) {
      ++totals_.passed;
    } else {
      fail(seed, violation);
    }
  }

  void fail(std::uint64_t seed, const std::string& why) {
    ++totals_.failed;
    if (!first_failure_ || seed < first_failure_->seed) first_failure_ = Failure{seed, why};
    if (quiet_) return;
    std::string plant = options_.plant.empty() ? "" : "--plant " + options_.plant + " ";
    if (options_.clones) plant += "--clones ";
    if (options_.cycles > 0) plant += "--cycles 1 ";
    std::printf("seed %llu: %s\n    replay: npm run sim -- %s--seed %llu --trace\n", ull(seed), why.c_str(),
                plant.c_str(), ull(seed));
    std::fflush(stdout);
  }

  Options options_;
  std::uint64_t next_;
  std::map<pid_t, Child> children_;
  Totals totals_;
  std::optional<Failure> first_failure_;
  bool quiet_ = false;
  std::chrono::steady_clock::time_point began_, shown_;
};

// ---- planted bugs ----

#ifdef HOLDFAST_PLANTS

bool choose_plant(const std::string& name) {
  for (const holdfast::PlantName& known : holdfast::kPlantNames) {
    if (name == known.name) {
      holdfast::planted = known.plant;
      return true;
    }
  }
  std::fprintf(stderr, "sim: no planted bug is called %s; there are:", name.c_str());
  for (const holdfast::PlantName& known : holdfast::kPlantNames) std::fprintf(stderr, " %s", known.name.data());
  std::fprintf(stderr, "\n");
  return false;
}

int run_plants(const Options& options) {
  unsigned missed = 0;
  for (const holdfast::PlantName& plant : holdfast::kPlantNames) {
    if (!options.plant.empty() && options.plant != plant.name) continue;
    holdfast::planted = plant.plant;
    Options near = options;
    near.clones = plant.plant == holdfast::Plant::kIgnorePins;
    near.first = plant.found_by;
    near.count = std::min<std::uint64_t>(kNearSeeds, options.count);
    std::optional<Runner::Failure> found = Runner(near).run_until_failure();
    if (!found) {
      Options all = options;
      all.clones = near.clones;
      found = Runner(all).run_until_failure();
    }
    if (interrupted_by != 0) return 128 + static_cast<int>(interrupted_by);
    if (found) {
      std::printf("%-30s found by seed %llu: %s\n", plant.name.data(), static_cast<unsigned long long>(found->seed),
                  found->why.c_str());
    } else {
      ++missed;
      std::printf("%-30s NOT FOUND by %llu seeds\n", plant.name.data(), static_cast<unsigned long long>(options.count));
    }
    std::fflush(stdout);
  }
  if (missed > 0) std::printf("%u planted bugs were not found\n", missed);
  return missed == 0 ? 0 : 1;
}

#else

bool choose_plant(const std::string&) {
  std::fprintf(stderr, "sim: this build has no planted bugs; configure one with -DHOLDFAST_PLANTS=ON\n");
  return false;
}
int run_plants(const Options&) { return choose_plant("") ? 0 : 2; }

#endif

int run_one(std::uint64_t seed, bool trace, holdfast::sim::Variant variant) {
  Outcome outcome = holdfast::sim::simulate(seed, trace, variant);
  std::printf(
      "seed %llu: %s\n  %s\n  hash %016llx, %llu events, %llu operations (%llu failed), %llu epochs, %.1f simulated "
      "s\n",
      static_cast<unsigned long long>(seed),
      outcome.violation.empty() ? (outcome.lost ? "lost to injected damage" : "passed") : outcome.violation.c_str(),
      outcome.scenario.c_str(), static_cast<unsigned long long>(outcome.hash),
      static_cast<unsigned long long>(outcome.events), static_cast<unsigned long long>(outcome.operations),
      static_cast<unsigned long long>(outcome.failed_operations), static_cast<unsigned long long>(outcome.epochs),
      outcome.virtual_seconds);
  std::fflush(nullptr);
  _exit(outcome.violation.empty() ? 0 : 1);
}

bool parse(int argc, char** argv, Options& options) {
  bool seed_given = false, seeds_given = false;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--trace") {
      options.trace = true;
      continue;
    }
    if (name == "--clones") {
      options.clones = true;
      continue;
    }
    if (name == "--plants") {
      options.all_plants = true;
      continue;
    }
    char* rest = nullptr;
    if (i + 1 == argc) return false;
    if (name == "--plant") {
      options.plant = argv[++i];
      continue;
    }
    std::uint64_t value = std::strtoull(argv[++i], &rest, 10);
    if (*rest != '\0') return false;
    if (name == "--seed") {
      options.first = value;
      seed_given = true;
    } else if (name == "--seeds") {
      options.count = value;
      seeds_given = true;
    } else if (name == "--cycles" && value > 0) {
      options.cycles = value;
    } else if (name == "--jobs" && value > 0) {
      options.jobs = static_cast<unsigned>(value);
    } else {
      return false;
    }
  }
  if (options.all_plants && !seeds_given) {
    options.count = kPlantSeeds;
  } else if (options.cycles > 1 && !seeds_given) {
    options.count = options.cycles;  // each seed has some
  } else if (seed_given && !seeds_given) {
    options.count = 1;
  }
  return options.count > 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.jobs = static_cast<unsigned>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  if (!parse(argc, argv, options)) {
    std::fprintf(
        stderr,
        "usage: sim [--seeds N] [--seed S] [--jobs J] [--trace] [--clones] [--plants | --plant NAME | --cycles N]\n");
    return 2;
  }
  // Memory is not given back to the kernel between uses: page faults would take a third of the time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  // The search for an order that explains a history goes one call deeper for every operation; the kernel leaves 128 MiB
  // of addresses below a stack.
  rlimit stack{};
  if (getrlimit(RLIMIT_STACK, &stack) == 0) {
    stack.rlim_cur = std::min<rlim_t>(stack.rlim_max, 120u << 20);
    (void)setrlimit(RLIMIT_STACK, &stack);
  }
  holdfast::set_log_level(options.trace ? holdfast::LogLevel::kInfo : holdfast::LogLevel::kError);
  if (!options.plant.empty() && !choose_plant(options.plant)) return 2;
  if (options.count == 1 && !options.all_plants)
    run_one(options.first, options.trace, {options.cycles > 0, options.clones});
  struct sigaction note {};
  note.sa_handler = note_interrupt;
  sigaction(SIGINT, &note, nullptr);
  sigaction(SIGTERM, &note, nullptr);
  return options.all_plants ? run_plants(options) : Runner(options).run();
}
