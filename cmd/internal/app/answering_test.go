package app

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/turns"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// asked is the far end of a stream on which a question came whole.
type asked struct {
	net.Conn
	question io.Reader
}

func (a asked) Read(b []byte) (int, error) { return a.question.Read(b) }
func (a asked) Reset()                     { a.Close() }

// idle is the far end of a stream on which nothing comes.
type idle struct{ net.Conn }

func (i idle) Reset() { i.Close() }

// Streams on which one peer asks nothing, and answers that it does not read, keep no other peer
// waiting, and end; its own questions wait for their turn.
func TestAnsweringIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := []byte("content")
		a := &App{log: slog.New(slog.DiscardHandler), answering: turns.New(policyAnswers, policyAnswersEach)}
		a.desk = travel.New(travel.Config{Held: func([32]byte) []byte { return content }})
		question, err := statement.Marshal(map[uint64]any{1: bytes.Repeat([]byte{1}, 32), 2: 1})
		if err != nil {
			t.Fatal(err)
		}
		open := func(peer spiffeid.ID) net.Conn {
			near, far := net.Pipe()
			go a.servePolicy(t.Context(), peer, asked{far, bytes.NewReader(question)})
			return near
		}
		var silent []net.Conn
		for range 2 * policyAnswers {
			near, far := net.Pipe()
			go a.servePolicy(t.Context(), nodeN2, idle{far})
			silent = append(silent, near)
			open(nodeN2)
		}
		synctest.Wait()
		if held := a.answering.Taken(); held != policyAnswersEach {
			t.Errorf("one peer has %d of %d, want at most %d", held, policyAnswers, policyAnswersEach)
		}

		begun := time.Now()
		b, err := io.ReadAll(open(nodeN3))
		if err != nil || !bytes.Equal(b, content) || time.Since(begun) > 0 {
			t.Errorf("another peer gets %q, %v, after %s", b, err, time.Since(begun))
		}
		for _, s := range silent {
			if _, err := s.Read(make([]byte, 1)); err != io.EOF || time.Since(begun) > policyQuestion {
				t.Errorf("a stream on which nothing is asked: %v after %s", err, time.Since(begun))
			}
		}
		time.Sleep(policyTimeout)
		synctest.Wait()
		if a.answering.Taken() != 0 {
			t.Errorf("after %s still %d answers", policyTimeout, a.answering.Taken())
		}

		var all sync.WaitGroup
		for range 2 * policyAnswersEach { // as many as a node asks at once
			s := open(nodeN2)
			all.Go(func() {
				if b, err := io.ReadAll(s); err != nil || !bytes.Equal(b, content) {
					t.Errorf("a question that waits for its turn: %q, %v", b, err)
				}
			})
		}
		all.Wait()
	})
}

// Four peers that act as one ask for as much as they may and take nothing: whoever else asks soon
// gets an answer, and they get none that could be taken for one.
func TestAnsweringOutlastsColluders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := bytes.Repeat([]byte("content "), 8<<10)
		a := &App{log: slog.New(slog.DiscardHandler), answering: turns.New(policyAnswers, policyAnswersEach)}
		a.desk = travel.New(travel.Config{Held: func([32]byte) []byte { return content }})
		question, err := statement.Marshal(map[uint64]any{1: bytes.Repeat([]byte{1}, 32), 2: 1})
		if err != nil {
			t.Fatal(err)
		}
		open := func(peer spiffeid.ID) net.Conn {
			near, far := net.Pipe()
			go a.servePolicy(t.Context(), peer, asked{far, bytes.NewReader(question)})
			return near
		}
		var held []net.Conn
		for i := range policyAnswers {
			held = append(held, open(spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/x%d", i%4))))
		}
		time.Sleep(2 * time.Second)
		if taken := a.answering.Taken(); taken != policyAnswers {
			t.Fatalf("%d answers are under way, want %d", taken, policyAnswers)
		}
		begun := time.Now()
		if b, err := io.ReadAll(open(nodeN3)); err != nil || !bytes.Equal(b, content) || time.Since(begun) > 2*turns.Patience {
			t.Errorf("who asks gets %d bytes, %v, after %s", len(b), err, time.Since(begun))
		}
		time.Sleep(2 * policyTimeout)
		for _, s := range held {
			s.Close()
		}
	})
}

// A question too long is none: nothing is answered, and nobody waits for its end.
func TestAnsweringReadsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &App{log: slog.New(slog.DiscardHandler), answering: turns.New(policyAnswers, policyAnswersEach)}
		a.desk = travel.New(travel.Config{Held: func([32]byte) []byte { return []byte("content") }})
		near, far := net.Pipe()
		go a.servePolicy(t.Context(), nodeN2, idle{far})
		begun := time.Now()
		if _, err := near.Write(make([]byte, travel.MaxQuestion+1)); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(near); err != nil || len(b) != 0 || time.Since(begun) > 0 {
			t.Errorf("%d bytes, %v, after %s", len(b), err, time.Since(begun))
		}
	})
}
