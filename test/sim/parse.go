package sim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrScenario means a line of a scenario is not understood; the error names it.
var ErrScenario = errors.New("scenario")

// Read reads a scenario from a file; the format is in the package doc. Errors wrap
// ErrScenario or the file system's.
func Read(path string) (Scenario, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Scenario{}, err
	}
	s, err := Parse(string(b))
	if err != nil {
		return Scenario{}, fmt.Errorf("%s: %w", path, err)
	}
	s.Name = path
	return s, nil
}

// Parse reads a scenario. All wrong lines are named at once.
func Parse(text string) (Scenario, error) {
	var s Scenario
	var bad []error
	number := 0
	for l := range strings.Lines(text) {
		number++
		l, _, _ = strings.Cut(l, "#")
		words := strings.Fields(l)
		if len(words) == 0 {
			continue
		}
		if err := s.line(words); err != nil {
			bad = append(bad, fmt.Errorf("%w: line %d: %q: %w", ErrScenario, number, strings.TrimSpace(l), err))
		}
	}
	switch {
	case s.Nodes < 2:
		bad = append(bad, fmt.Errorf("%w: it has %d nodes, at least 2 are needed", ErrScenario, s.Nodes))
	case s.Writers > s.Nodes:
		bad = append(bad, fmt.Errorf("%w: %d writers among %d nodes", ErrScenario, s.Writers, s.Nodes))
	}
	s.complete()
	return s, errors.Join(bad...)
}

var errWords = errors.New("not understood")

func (s *Scenario) line(words []string) (err error) {
	v := reader{words: words[1:]}
	switch words[0] {
	case "nodes":
		s.Nodes = v.count()
	case "writers":
		s.Writers = v.count()
	case "seed":
		s.Seed = uint64(v.count())
	case "size":
		s.Size = v.count()
	case "bridges":
		s.Bridges = v.count()
	case "latency":
		s.Latency = v.duration()
		s.Jitter = v.duration() - s.Latency
	case "bandwidth":
		s.Bandwidth = int64(v.count())
	case "thin":
		s.Thin = int64(v.count())
	case "loss":
		s.Loss, s.Retransmit = v.share(), v.duration()
	case "cost":
		s.cost(&v)
	case "run":
		s.For = v.duration()
	case "adversary":
		a := Adversary{Name: v.next()}
		if a.Role = roles[a.Name]; a.Role == nil {
			return fmt.Errorf("%w: no such adversary", errWords)
		}
		if strings.HasSuffix(v.peek(), "%") {
			a.Share = v.share()
		} else {
			a.Count = v.count()
		}
		s.Adversaries = append(s.Adversaries, a)
	case "at":
		step := Step{At: v.duration(), Do: v.next()}
		switch step.Do {
		case "write":
			step.Count = v.count()
			v.word("every")
			step.Every = v.duration()
		case "cut", "kill", "restore", "forget", "older":
			step.Share = v.share()
		case "jump":
			step.Share, step.By = v.share(), v.duration()
		case "heal", "revive", "backup":
		default:
			return fmt.Errorf("%w: no such step", errWords)
		}
		s.Steps = append(s.Steps, step)
	case "expect":
		e := Expectation{Text: strings.Join(words[1:], " "), Value: v.next()}
		if !slices.Contains(Values, e.Value) {
			return fmt.Errorf("%w: no such value; there are %s", errWords, strings.Join(Values, ", "))
		}
		switch v.next() {
		case "<=":
			e.Less = true
		case "=":
		default:
			return fmt.Errorf("%w: want <= or =", errWords)
		}
		e.Limit = v.value()
		s.Expect = append(s.Expect, e)
	default:
		return errWords
	}
	return v.done()
}

func (s *Scenario) cost(v *reader) {
	switch v.next() {
	case "frame":
		s.Costs.Frame = v.duration()
	case "admit":
		s.Costs.Admit = v.duration()
	case "cert":
		s.Costs.Cert = v.duration()
	case "sign":
		s.Costs.Sign = v.duration()
	case "commit":
		s.Costs.Commit = v.duration()
	default:
		v.fail(errWords)
	}
}

// reader takes the words of a line; the first thing wrong counts.
type reader struct {
	words []string
	err   error
}

func (r *reader) peek() string {
	if len(r.words) == 0 {
		return ""
	}
	return r.words[0]
}

func (r *reader) next() string {
	w := r.peek()
	if len(r.words) == 0 {
		r.fail(fmt.Errorf("%w: too short", errWords))
		return ""
	}
	r.words = r.words[1:]
	return w
}

func (r *reader) fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
	}
}

func (r *reader) word(want string) {
	if w := r.next(); w != want {
		r.fail(fmt.Errorf("%w: %q instead of %q", errWords, w, want))
	}
}

func (r *reader) count() int {
	n, err := strconv.ParseUint(r.next(), 10, 40)
	r.fail(err)
	return int(n)
}

func (r *reader) duration() time.Duration {
	d, err := time.ParseDuration(r.next())
	r.fail(err)
	return d
}

func (r *reader) share() float64 {
	w, percent := strings.CutSuffix(r.next(), "%")
	x, err := strconv.ParseFloat(w, 64)
	if err == nil && (!percent || x < 0 || x > 100) {
		err = fmt.Errorf("%w: %q is no share; write 20%%", errWords, w)
	}
	r.fail(err)
	return x / 100
}

// value is a number, or a duration, which then is in milliseconds.
func (r *reader) value() float64 {
	w := r.next()
	if x, err := strconv.ParseFloat(w, 64); err == nil {
		return x
	}
	d, err := time.ParseDuration(w)
	r.fail(err)
	return milliseconds(d)
}

func (r *reader) done() error {
	if r.err == nil && len(r.words) > 0 {
		return fmt.Errorf("%w: %v too much", errWords, r.words)
	}
	return r.err
}

// Files returns the scenarios in a folder.
func Files(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*.txt")) }
