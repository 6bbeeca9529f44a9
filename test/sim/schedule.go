package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

// Upsets of honest nodes that a schedule has, beside its liar.
var upsets = []string{"crash", "restart", "restore", "partition", "jump", "older"}

// liars that a schedule may have.
var liars = []string{"persistent", "thief", "backdater", "accuser", "framer"}

// upsetFor is how long honest nodes are upset; then all is healed, and there is time to hear of it.
const (
	upsetFor  = 6 * time.Second
	upsetRest = 4 * time.Second
)

// Schedule is a scenario by chance: a small fleet in which everybody writes, with crashes, restarts,
// disks set back, partitions, clocks that jump and versions that differ. One of three has a liar. It
// expects that nobody honest is harmed and nobody guilty spared. did counts what happens in it.
func Schedule(seed uint64) (s Scenario, did map[string]int) {
	r := rand.New(rand.NewPCG(seed, 77))
	did = map[string]int{}
	s = Scenario{
		Name: "schedule", Seed: seed, Nodes: 5 + r.IntN(3), Size: 40, For: upsetFor + upsetRest,
		Expect: []Expectation{{Value: "harmed", Text: "harmed = 0"}, {Value: "spared", Text: "spared = 0"}},
	}
	s.Writers = s.Nodes - 1
	if r.IntN(3) == 0 {
		name := liars[r.IntN(len(liars))]
		s.Adversaries = []Adversary{{Role: roles[name], Name: name, Count: 1}}
		did[name]++
	}
	moment := func(from time.Duration) time.Duration { return from + time.Duration(r.Int64N(int64(upsetFor-from))) }
	steps := []Step{{At: 500 * time.Millisecond, Do: "write", Count: 30, Every: 200 * time.Millisecond}, {At: time.Second, Do: "backup"}}
	for range 1 + r.IntN(5) {
		what, at, share := upsets[r.IntN(len(upsets))], moment(1100*time.Millisecond), 0.1+0.3*r.Float64()
		did[what]++
		switch what {
		case "crash":
			steps = append(steps, Step{At: at, Do: "kill", Share: share}, Step{At: moment(at), Do: "revive"})
		case "restart":
			steps = append(steps, Step{At: at, Do: "kill", Share: share}, Step{At: at + 50*time.Millisecond, Do: "revive"})
		case "partition":
			steps = append(steps, Step{At: at, Do: "cut", Share: share}, Step{At: moment(at), Do: "heal"})
		case "jump":
			by := time.Duration(r.Int64N(int64(20*time.Second))) - 10*time.Second
			steps = append(steps, Step{At: at, Do: "jump", Share: share, By: by})
		default:
			steps = append(steps, Step{At: at, Do: what, Share: share})
		}
	}
	s.Steps = append(steps, Step{At: upsetFor, Do: "heal"}, Step{At: upsetFor, Do: "revive"})
	return s, did
}

// Tally is what many schedules came to.
type Tally struct {
	Schedules int            `json:"schedules"`
	Liars     int            `json:"with_a_liar"`
	Did       map[string]int `json:"did"`    // how often each thing happened
	False     int            `json:"harmed"` // schedules in which somebody honest was harmed
	Spared    int            `json:"spared"` // schedules in which somebody guilty was not convicted by all
	Wall      float64        `json:"wall_seconds"`
}

// Schedules runs so many schedules, from a seed on. The error joins those of schedules that were
// not as expected: each tells its seed and its story.
func Schedules(from uint64, count int) (Tally, error) {
	t := Tally{Schedules: count, Did: map[string]int{}}
	start := time.Now()
	var mu sync.Mutex
	var failed []error
	seeds := make(chan uint64)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for seed := range seeds {
				s, did := Schedule(seed)
				r, err := Run(s)
				mu.Lock()
				for what, times := range did {
					t.Did[what] += times
				}
				if len(s.Adversaries) > 0 {
					t.Liars++
				}
				if r.Values["harmed"] > 0 {
					t.False++
				}
				if r.Values["spared"] > 0 {
					t.Spared++
				}
				if err != nil {
					failed = append(failed, fmt.Errorf("schedule %d, again with: go run ./test/sim/run -schedules 1 -seed %d: %w", seed, seed, err))
				}
				mu.Unlock()
			}
		})
	}
	for i := range count {
		seeds <- from + uint64(i)
	}
	close(seeds)
	wait.Wait()
	t.Wall = time.Since(start).Seconds()
	return t, errors.Join(failed...)
}
