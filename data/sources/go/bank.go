package bank

import "sync"

type Account struct {
	mu      sync.Mutex
	balance int64
	Owner   string `json:"owner"`
}

func (a *Account) Deposit(amount int64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.balance += amount
	return a.balance
}

func Sum(accounts []*Account) (total int64) {
	for _, a := range accounts {
		total += a.balance
	}
	return total
}
