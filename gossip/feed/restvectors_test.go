package feed

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// restVectors are testdata/rest.json: the rest of snapshots that a newer epoch cuts off.
// The records are judged in order, by one who heard them all and by one who holds
// none of those that are gone.
type restVectors struct {
	Keys  []string // PKIX, of epochs 1 and 2
	Cases []restVector
}

type restVector struct {
	Name    string
	Records []judgedVector
	Start   uint64 // of epoch 1 at the end
	Live    int    // keys of epoch 1 at the end
}

type judgedVector struct {
	Record  string
	Verdict string
	Gone    bool // at the end
}

const restFile = "testdata/rest.json"

func TestRestVectors(t *testing.T) {
	if *update {
		writeRestVectors(t)
	}
	raw, err := os.ReadFile(restFile)
	if err != nil {
		t.Fatal(err)
	}
	var v restVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	var lives []life
	for i, k := range v.Keys {
		pub, err := x509.ParsePKIXPublicKey(unhex(t, k))
		if err != nil {
			t.Fatal(err)
		}
		lives = append(lives, life{EpochKey: EpochKey{
			Origin: n1, Epoch: uint64(i + 1), Key: pub.(*ecdsa.PublicKey), Class: "node", NotAfter: t0.Add(time.Hour),
		}})
	}
	for _, tc := range v.Cases {
		t.Run(tc.Name, func(t *testing.T) {
			heard, late := newNode(t, n1, lives...), newNode(t, n1, lives...)
			var left []Record // that a late one is given, the newest epoch first
			for _, j := range tc.Records {
				rec, err := Parse(unhex(t, j.Record))
				if err != nil {
					t.Fatal(err)
				}
				if got := heard.admit(t0.Add(time.Minute), rec).Verdict.String(); got != j.Verdict {
					t.Errorf("record %d of %s is %s, want %s", rec.Seq, rec.Feed(), got, j.Verdict)
				}
				switch {
				case j.Gone || j.Verdict != Admitted.String():
				case rec.Epoch == 2:
					left = append([]Record{rec}, left...)
				default:
					left = append(left, rec)
				}
			}
			for _, rec := range left {
				want(t, late.admit(t0.Add(time.Minute), rec), Admitted)
			}
			for who, n := range map[string]*node{"heard all": heard, "came late": late} {
				if n.Start(1) != tc.Start || len(n.lines[1].live) != tc.Live || n.Head(1) != heard.Head(1) {
					t.Errorf("who %s: from %d with %d keys to %+v, want from %d with %d", who, n.Start(1), len(n.lines[1].live), n.Head(1), tc.Start, tc.Live)
				}
			}
		})
	}
}

func writeRestVectors(t *testing.T) {
	old, young := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	var v restVectors
	for _, l := range []life{old, young} {
		pub, err := x509.MarshalPKIXPublicKey(&l.priv.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		v.Keys = append(v.Keys, hex.EncodeToString(pub))
	}
	for _, tc := range restCases {
		c := newCopies(t, old, young)
		out := restVector{Name: tc.name}
		var recs []Record
		tc.play(c, func(rec Record, _ Verdict) {
			recs = append(recs, rec)
			out.Records = append(out.Records, judgedVector{Record: hex.EncodeToString(rec.Bytes()), Verdict: c.offer(rec).String()})
		})
		if c.live.Start(1) != tc.since+1 {
			continue // a snapshot behind the rest has replaced it
		}
		out.Start, out.Live = c.live.Start(1), len(c.live.lines[1].live)
		for i, rec := range recs {
			out.Records[i].Gone = rec.Seq < c.live.Start(rec.Epoch)
		}
		v.Cases = append(v.Cases, out)
	}
	if err := os.WriteFile(restFile, []byte(toJSON(t, v)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
