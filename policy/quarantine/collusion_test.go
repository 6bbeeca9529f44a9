package quarantine

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// framed is the share of honest nodes, over seeds, of whose observers the colluders are a quorum.
func framed(n, percent, observers, quorum, seeds int) (share float64, of int) {
	s := NewSet(td, plainChecks())
	s.Use(Thresholds{Observers: observers, Quorum: quorum})
	members := fleet(n)
	s.Enrol(members)
	count := n * percent / 100
	hit := 0
	for seed := range seeds {
		colludes := map[string]bool{}
		for _, i := range rand.New(rand.NewPCG(uint64(seed), 7)).Perm(n)[:count] {
			colludes[members[i].ID.String()] = true
		}
		for _, victim := range members[:min(n, 50)] {
			if colludes[victim.ID.String()] {
				continue
			}
			of++
			votes := 0
			s.rank(victim.ID)
			for _, m := range s.seats(victim.ID) {
				if colludes[m.ID.String()] {
					votes++
				}
			}
			if t := s.Tally(victim.ID, t0); t.Quorum > 0 && votes >= t.Quorum {
				hit++
			}
		}
	}
	return float64(hit) / float64(of), of
}

// Of a fleet 30 % collude. With the default sizes they are a quorum against no honest node in any
// of the seeds; with the small ones that a policy may choose, as often as chance says, which shows
// that the test can see it.
func TestColludersFrameNobody(t *testing.T) {
	seeds := 60
	for _, n := range []int{6, 10, 20, 46, 60, 100, 300, 1000} {
		share, of := framed(n, 30, 0, 0, seeds)
		t.Logf("%d nodes: %d honest victims, %g framed", n, of, share)
		if share != 0 {
			t.Errorf("%d nodes, 30 %% of them colluders: %g of the honest are framed", n, share)
		}
	}
	small, of := framed(1000, 30, 5, 51, seeds)
	t.Logf("3 of 5: %g of %d framed", small, of)
	if small < 0.14 || small > 0.18 {
		t.Errorf("3 of 5: %g framed, chance says 0.163", small)
	}
}

// The numbers of the package doc: what the chance is, exactly.
func TestChanceOfAFrame(t *testing.T) {
	for _, tt := range []struct {
		n, percent, observers, quorum int
		most                          float64
	}{{103, 30, 45, 31, 0}, {1000, 30, 45, 31, 4.2e-8}, {100_000, 30, 45, 31, 9e-8}, {1000, 30, 21, 15, 1e-4}, {1000, 30, 5, 3, 0.164}} {
		if p := hypergeometric(tt.n-1, tt.n*tt.percent/100, tt.observers, tt.quorum); p > tt.most || p < tt.most*0.9 {
			t.Errorf("%d nodes, %d of %d observers: %g, want about %g", tt.n, tt.quorum, tt.observers, p, tt.most)
		}
	}
	d := Defaults()
	for n := 1; n < 5000; n++ { // no small fleet has a quorum that 30 % could be
		observers := min(n-1, d.Observers)
		if quorum := max(observers/2+1, (observers*d.Quorum+99)/100); observers >= fewestObservers && n <= 103 && n*30/100 >= quorum {
			t.Errorf("%d nodes: %d colluders are a quorum of %d", n, n*30/100, quorum)
		}
	}
}

// hypergeometric is the chance that at least k of n drawn from all are of the marked.
func hypergeometric(all, marked, n, k int) float64 {
	sum, c := new(big.Int), func(a, b int) *big.Int { return new(big.Int).Binomial(int64(a), int64(b)) }
	for i := k; i <= min(n, marked); i++ {
		sum.Add(sum, new(big.Int).Mul(c(marked, i), c(all-marked, n-i)))
	}
	f, _ := new(big.Rat).SetFrac(sum, c(all, n)).Float64()
	return f
}

// Whoever colludes with all others signs what it likes against everybody: nobody is quarantined,
// and what is held is held by the node that sees it.
func TestColludersThroughTheSet(t *testing.T) {
	members := fleet(40)
	s := NewSet(td, plainChecks())
	s.Enrol(members)
	for i, m := range members[:12] {
		for j, victim := range members[12:] {
			if i != j {
				s.Accuse(t0, m.ID, accusation(t, victim.ID, t0))
			}
		}
	}
	for _, c := range s.Cases(t0) {
		if c.Status.Standing != OK {
			t.Errorf("%s is %s: %s", c.Accused, c.Status.Standing, c.Status.Reason)
		}
		if e := s.Effects(c.Accused, t0, Roster{Attested: 40}); e != (Effects{}) {
			t.Error(fmt.Sprint(c.Accused, e))
		}
	}
}
