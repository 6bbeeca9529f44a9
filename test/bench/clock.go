package main

import (
	"runtime"
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

// oneCore runs work with the garbage collector on the same core.
func oneCore(work func() (float64, error)) (float64, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	return work()
}

// seconds times work.
func seconds(work func() error) (float64, error) {
	start := time.Now()
	err := work()
	return time.Since(start).Seconds(), err
}
