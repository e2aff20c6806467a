class Account {
    enum Kind { BASIC, GOLD }

    private long balance;
    private final Kind kind;

    Account(Kind kind, long balance) {
        this.kind = kind;
        this.balance = balance;
    }

    boolean withdraw(long amount) {
        if (amount > balance) {
            return false;
        }
        balance -= amount;
        return true;
    }

    int fee() {
        switch (kind) {
            case GOLD:
                return 0;
            default:
                return 2;
        }
    }
}
