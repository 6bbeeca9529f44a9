package main

import (
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// perSecond times work that does n things.
func perSecond(n int, work func() error) (float64, error) {
	start := time.Now()
	err := work()
	return float64(n) / time.Since(start).Seconds(), err
}

// micros times work that does n things one after another: microseconds each.
func micros(n int, work func() error) (float64, error) {
	start := time.Now()
	err := work()
	return float64(time.Since(start).Nanoseconds()) / 1e3 / float64(n), err
}

// cpuMicros is the processor time that one of n things takes of this process and, where it is not
// nil, of another, in microseconds. What else runs on the machine changes it little.
func cpuMicros(n int, other *process, work func() error) (float64, error) {
	spent := func() (time.Duration, error) {
		own, err := ownCPU()
		if err != nil || other == nil {
			return own, err
		}
		more, err := other.cpu()
		return own + more, err
	}
	before, err := spent()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := spent()
	return float64((after - before).Nanoseconds()) / 1e3 / float64(n), err
}

// oneCore runs work with the garbage collector on the same core.
func oneCore(work func() (float64, error)) (float64, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	return work()
}

// rarely has this process collect garbage rarely, until the function returned is called:
// a client is no part of what is measured.
func rarely() (undo func()) {
	percent := debug.SetGCPercent(1600)
	return func() { debug.SetGCPercent(percent) }
}

// perCPUSecond counts the things that work does in a second of this process's
// processor time: what else runs on the machine changes it little.
func perCPUSecond(n int, work func() error) (float64, error) {
	before, err := ownCPU()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := ownCPU()
	return float64(n) / (after - before).Seconds(), err
}

// ownCPU is the processor time of this process so far, user and system.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// seconds times work.
func seconds(work func() error) (float64, error) {
	start := time.Now()
	err := work()
	return time.Since(start).Seconds(), err
}

// meter adds up the processor time of the two programs of a row, and our own.
type meter struct {
	sides
	total [2]reading
}

// reading is processor time, of the side's program and of this process.
type reading struct{ program, client time.Duration }

// read is zero where the row has no programs.
func (m *meter) read(i int) (r reading, err error) {
	if m.ops == 0 || i > byReference {
		return r, nil
	}
	if r.program, err = m.procs[i].cpu(); err != nil {
		return r, err
	}
	r.client, err = ownCPU()
	return r, err
}

// round runs one round of side i and returns its figure and what it used.
func (m *meter) round(i int, work func() (float64, error)) (v float64, used reading, err error) {
	if i <= byReference && m.ready[i] != nil {
		if err := m.ready[i](); err != nil {
			return 0, used, err
		}
	}
	runtime.GC() // nobody pays for another's garbage
	before, err := m.read(i)
	if err != nil {
		return 0, used, err
	}
	if v, err = work(); err != nil {
		return 0, used, err
	}
	after, err := m.read(i)
	return v, reading{after.program - before.program, after.client - before.client}, err
}

func (m *meter) add(i int, used reading) {
	if i <= byReference {
		m.total[i].program += used.program
		m.total[i].client += used.client
	}
}

// bound is what the ratio would be if nobody ever waited for a disk, a lock or the other end:
// the processor time of both sides, each with the client's, which is on the same cores. Nil
// where the row has no programs.
func (m *meter) bound(higher bool) *float64 {
	ours, reference := m.total[byOurs], m.total[byReference]
	if m.ops == 0 || ours.program == 0 || reference.program == 0 {
		return nil
	}
	bound := float64(ours.program+ours.client) / float64(reference.program+reference.client)
	if higher {
		bound = 1 / bound
	}
	return &bound
}

// spent is nil where the row has no programs.
func (m *meter) spent(rounds int) *spent {
	if m.ops == 0 {
		return nil
	}
	each := func(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(n*m.ops) }
	ours, reference := m.total[byOurs], m.total[byReference]
	return &spent{Ours: each(ours.program, rounds), Reference: each(reference.program, rounds), Client: each(ours.client+reference.client, 2*rounds)}
}
