package sim

import "time"

// Scenario is what a run consists of. Zero fields have defaults.
type Scenario struct {
	Name        string // of its file
	Nodes       int
	Writers     int    // nodes with a feed of their own, spread over the fleet; 20
	Seed        uint64 // 1
	Size        int    // bytes of the value of an update; 200
	Bridges     int    // pairs of nodes with links between the first half of the nodes and the second; zero: as the mesh wants
	Adversaries []Adversary
	Steps       []Step
	For         time.Duration // how long it runs; until 5 s after the last step
	Expect      []Expectation
	Network
	Costs Costs
}

// Adversary is how many nodes have a role: a share of all, or a number.
type Adversary struct {
	Role  role
	Name  string
	Share float64
	Count int
}

// Network is what lies between nodes.
type Network struct {
	Latency    time.Duration // of a link, one way, at least; 250 us
	Jitter     time.Duration // a link has up to so much more, drawn once; 500 us
	Bandwidth  int64         // bytes a second that a node can send; 125 MB
	Thin       int64         // bytes a second between the two halves, in each direction; zero: no such limit
	Loss       float64       // of packets; QUIC sends them again
	Retransmit time.Duration // what that takes; 30 ms
}

// Costs is how long a node's one processor takes. The defaults were measured with the
// product on one core of a shared machine, and rounded up.
type Costs struct {
	Frame  time.Duration // to read a frame and look at it, also one that is known already; 5 us
	Admit  time.Duration // on top, to verify a record or header and admit it; 120 us
	Cert   time.Duration // on top, to verify an epoch certificate; 150 us
	Sign   time.Duration // to sign an own record and admit it; 180 us
	Commit time.Duration // to make a batch durable; 800 us
}

// Step is something that happens at a time.
type Step struct {
	At    time.Duration
	Do    string        // write, cut, heal, kill, revive, backup, restore, forget, jump, older
	Count int           // of updates
	Every time.Duration // between updates
	Share float64       // of nodes
	By    time.Duration // how far clocks jump
}

// Expectation is what a value of the Report has to be.
type Expectation struct {
	Value string // its name
	Less  bool   // at most Limit; otherwise exactly
	Limit float64
	Text  string // as it was written
}

func (s *Scenario) complete() {
	setDefault(&s.Writers, min(20, s.Nodes))
	setDefault(&s.Seed, 1)
	setDefault(&s.Size, 200)
	setDefault(&s.Latency, 250*time.Microsecond)
	setDefault(&s.Jitter, 500*time.Microsecond)
	setDefault(&s.Bandwidth, 125_000_000)
	setDefault(&s.Retransmit, 30*time.Millisecond)
	setDefault(&s.Costs.Frame, 5*time.Microsecond)
	setDefault(&s.Costs.Admit, 120*time.Microsecond)
	setDefault(&s.Costs.Cert, 150*time.Microsecond)
	setDefault(&s.Costs.Sign, 180*time.Microsecond)
	setDefault(&s.Costs.Commit, 800*time.Microsecond)
	if s.For == 0 {
		for _, step := range s.Steps {
			s.For = max(s.For, step.At+time.Duration(step.Count)*step.Every)
		}
		s.For += 5 * time.Second
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// write plans updates, one after another, by the writers in turn.
func (f *fleet) write(count int, every time.Duration) {
	for i := range count {
		f.after(time.Duration(i)*every, func() {
			w := f.writer(len(f.updates) % f.Writers)
			if !w.up {
				return
			}
			u := &update{number: len(f.updates), writer: w.index, after: make([]int64, f.Nodes), from: make([]int32, f.Nodes)}
			f.updates = append(f.updates, u)
			w.write(u)
		})
	}
}

func (f *fleet) do(s Step) {
	switch s.Do {
	case "write":
		f.write(s.Count, s.Every)
	case "cut":
		f.part(s.Share)
	case "heal":
		f.heal()
	case "kill":
		f.kill(s.Share)
	case "revive":
		f.revive()
	case "backup":
		f.backup()
	case "restore":
		f.restore(s.Share, true)
	case "forget":
		f.restore(s.Share, false)
	case "jump":
		f.jump(s.Share, s.By)
	case "older":
		f.older(s.Share)
	}
}
