package roster

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
)

// request returns what memberlist may read of a stream that a peer opened.
func (f *filter) request(now time.Time, from string, r io.Reader) ([]byte, error) {
	in := bufio.NewReader(io.LimitReader(r, maxStream))
	if err := f.takeLabel(in); err != nil {
		f.count("label")
		return nil, err
	}
	kind, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	var out []byte
	switch kind {
	case msgPing:
		var m ping
		if err := codec.NewDecoder(in, handle).Decode(&m); err != nil {
			f.count("malformed")
			return nil, fmt.Errorf("%w: ping: %w", errStream, err)
		}
		if m.Node != f.self {
			f.count("not-for-us")
			return nil, fmt.Errorf("%w: ping for %q", errStream, m.Node)
		}
		out = encode(msgPing, ping{SeqNo: m.SeqNo, Node: f.self})
	case msgPushPull:
		if out, err = f.pushPull(now, from, in); err != nil {
			return nil, err
		}
	default:
		//bailiwick:check TestSWIM/oversized_event instead rest, _ := io.ReadAll(in); return memberlist.AddLabelHeaderToPacket(append([]byte{kind}, rest...), f.label)
		f.count("stream-type")
		return nil, fmt.Errorf("%w: type %d", errStream, kind)
	}
	return memberlist.AddLabelHeaderToPacket(out, f.label)
}

// reply returns what memberlist may read of the answer on a stream it opened.
func (f *filter) reply(now time.Time, from string, r io.Reader) ([]byte, error) {
	in := bufio.NewReader(io.LimitReader(r, maxStream))
	kind, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	switch kind {
	case msgAck:
		var m ack
		if err := codec.NewDecoder(in, handle).Decode(&m); err != nil {
			f.count("malformed")
			return nil, fmt.Errorf("%w: ack: %w", errStream, err)
		}
		return encode(msgAck, ack{SeqNo: m.SeqNo}), nil
	case msgPushPull:
		return f.pushPull(now, from, in)
	case msgError:
		f.count("refused") // its words are the peer's and go nowhere
		return nil, fmt.Errorf("%w: the peer refused the exchange", errStream)
	}
	f.count("stream-type")
	return nil, fmt.Errorf("%w: type %d", errStream, kind)
}

func (f *filter) takeLabel(in *bufio.Reader) error {
	if f.label == "" {
		return nil
	}
	head, err := memberlist.AddLabelHeaderToPacket([]byte{}, f.label)
	if err != nil {
		return err
	}
	got := make([]byte, len(head))
	if _, err := io.ReadFull(in, got); err != nil {
		return err
	}
	if !bytes.Equal(got, head) {
		return fmt.Errorf("%w: another label", errStream)
	}
	return nil
}

// pushPull judges the node states of a push/pull one by one.
func (f *filter) pushPull(now time.Time, from string, in io.Reader) ([]byte, error) {
	p, err := readPushPull(in)
	if err != nil {
		f.count("malformed")
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clean := pushPull{join: p.join}
	for _, s := range p.states {
		var reason string
		switch {
		case s.State == stateAlive:
			reason = f.judgeAlive(now, from, s.Name, &s.Incarnation, &s.Meta)
		case s.State == stateLeft && s.Name == from:
			if s.Incarnation > maxOwn {
				reason = "incarnation"
			}
		default:
			reason = f.judgeAccusation(now, from, s.Name, &s.Incarnation)
			//bailiwick:check TestSWIM/states_of_others
			s.State = stateSuspect // of a death, memberlist makes a suspicion too
		}
		if reason != "" {
			f.count(reason)
			continue
		}
		if s.State != stateAlive {
			s.Meta = nil
		}
		addr := address(s.Name)
		s.Addr, s.Port, s.Vsn = addr.Addr().AsSlice(), addr.Port(), versions
		clean.states = append(clean.states, s)
	}
	return clean.encode(), nil
}

// filtered is a stream of which memberlist reads only what the filter wrote.
type filtered struct {
	net.Conn
	read func() ([]byte, error) // reads and judges the whole message
	told func([]byte) []byte    // what may be sent of one; memberlist writes each at once
	rest *bytes.Reader          // nil before the first Read; owned by the one reader
	err  error
	done func() // called by each Close; may be nil
}

// Read judges the message at the first call, within the connection's deadline.
func (c *filtered) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.rest == nil {
		msg, err := c.read()
		if err != nil {
			c.err = err
			return 0, err
		}
		c.rest = bytes.NewReader(msg)
	}
	return c.rest.Read(b)
}

// Write sends what may be said of a message.
func (c *filtered) Write(b []byte) (int, error) {
	if _, err := c.Conn.Write(c.told(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *filtered) Close() error {
	err := c.Conn.Close()
	if c.done != nil {
		c.done()
	}
	return err
}
